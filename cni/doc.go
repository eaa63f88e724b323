// SPDX-License-Identifier: Apache-2.0

// Package cni is the root of everything that speaks the Container Network Interface:
//
//	runtime --env, stdin--> cmd/fairlead-cni (package plugin)
//	                              |  one request, netns as a file descriptor (package wire)
//	                              v
//	                       node agent (dataplane/endpoint)
//	                              ^
//	                              |  deletions made while the agent was down (package queue)
//
// plugin knows the specification (versions 0.1.0 to 1.1.0, error codes, capabilities); wire and queue are what plugin and agent of neighbouring releases agree on;
// install puts the plugin and its configuration on a node and takes them away again. Nothing below this folder imports Kubernetes, the control plane or the dataplane.
package cni
