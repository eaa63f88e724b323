// SPDX-License-Identifier: Apache-2.0

// Package server is the kubelet's HTTPS server: logs, exec, attach, port-forward, the pods, statistics and metrics of this node.
//
// Every request is authenticated (client certificate of the given authority, or bearer token by TokenReview) and authorised by
// SubjectAccessReview, as a verb on nodes/SUBRESOURCE, the way the Kubernetes page "Kubelet authentication/authorization" has it. Streams
// go on to the runtime's streaming server, which listens on the loopback address only and knows unguessable one-time paths.
package server
