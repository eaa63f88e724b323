// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs a real multi-node Fairlead cluster on one machine, for trying it out and for testing it.
//
// Every node is a set of namespaces (net, mount, pid, uts, ipc, cgroup) whose inside looks like a plain host: its own /sys, /run, bpffs,
// cgroup root, /var/lib/fairlead and hostname. So a node runs the same command with the same paths as a production host does.
//
//	host ns    127.0.0.1:PORT (listener inherited by the server's process; nothing else of the host is touched)
//	              |
//	server-1   agent-1   agent-2   client        each a namespace with eth0
//	   |          |         |        |
//	   +----------+--br0----+--------+           namespace "fabric": the link, with no route to the host's uplink
//
// Each namespace is held by an init process (`fairlead sandbox init`), which is PID 1 in it and supervises the node's one main process. All of a
// sandbox's processes are in the cgroup fairlead-sandbox-NAME, so `down` finds every one of them by asking the kernel, whatever happened before.
// What it knows is in STATE/state.json; killing any process of it at any time loses nothing that `down` needs.
package sandbox
