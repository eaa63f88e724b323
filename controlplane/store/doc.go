// SPDX-License-Identifier: Apache-2.0

// Package store keeps the cluster's state: an etcd server inside this process, or connections to an etcd cluster elsewhere.
//
//	Config --> Start --> etcd member (data dir) <-- unix socket --> Endpoints, TLS files --> k8s.io/apiserver storage
//	                        |                                        Client -------------> `fairlead etcd ...`
//	                        +-- guard: alarms, free disk space, defragmentation
//
// A member that is alone listens on unix sockets only (mode 0600 in a directory of mode 0700) and elects itself within 100 ms. A member of a
// cluster speaks to its peers over mutual TLS; clients still come in by the unix socket. It joins as a learner and is promoted by whichever member leads. Nothing here knows Kubernetes objects: keys and
// values belong to k8s.io/apiserver.
package store
