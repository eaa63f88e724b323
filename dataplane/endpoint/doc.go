// SPDX-License-Identifier: Apache-2.0

// Package endpoint gives each pod of the node its network interface, and takes it away again.
//
//	CNI plugin --cni.sock--> Server --upsert--> tables.LocalPods --watch--> reconciler --> tcx links, endpoint and bandwidth maps, host routes
//	                           |                      ^
//	                           +-- veth, ipam, files -+ (restored when the agent starts)
//
// A pod has a veth pair with point-to-point routing: its addresses are single hosts (/32, /128), its default routes go to 169.254.1.1 and fe80::1, which are permanent
// neighbours with the host side's MAC and exist nowhere. There is no bridge and no broadcast. The host side has a route to each address, so that the kernel's own path works
// beside the eBPF one.
//
// Each pod is a file in DataDir/endpoints, written before anything is made and removed after everything is gone. So whatever step the agent dies at, the next agent
// knows the pod: it is whole (its host interface exists) and is taken on as it is, or it is not and is removed. What no file names (interfaces, links, map entries, addresses) is a leak
// and is removed by the sweep, as are pods whose sandbox the container runtime does not know any more.
//
// Nothing here imports client-go or a container runtime: the runtime's list of sandboxes comes through Config.Sandboxes.
package endpoint
