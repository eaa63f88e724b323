// SPDX-License-Identifier: Apache-2.0

// Package cloud gives Services of type LoadBalancer their addresses, from pools of CIDRs in the cluster's configuration. It is a cloud provider in
// the sense of k8s.io/cloud-provider, whose service controller does the rest: finalizers, events, status, deletion.
//
//	Services --informer--> service controller (library) --Ensure/Delete--> Balancer --> Pools
//
// It hands out addresses and nothing else; that every node answers for them is the dataplane's work. What is handed out is written only in the
// Services' status, so a restart reads it back from there.
package cloud
