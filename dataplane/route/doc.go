// SPDX-License-Identifier: Apache-2.0

// Package route connects the node's pods with the other nodes and with the world.
//
//	tables.Nodes, uplink devices --desired--> kernel routes   (table main, protocol 178)
//	                                      |-> ipcache map     (prefix -> node, tunnel or not, cluster or not)
//	                                      +-> uplinks map     (the address pods are masqueraded as)
//	                                          VXLAN device, tcx programs on uplinks and overlay
//
// For each other node and each of its pod CIDRs the choice is made anew whenever something changes: if the node's address is on the same link as one of ours, the route goes by that address
// (native); otherwise by the VXLAN device, where the eBPF program sets the tunnel's end from the ipcache. Mode can force either. The routing table is the one
// source of truth: the pods' programs ask it (bpf_fib_lookup), the kernel's own path uses it, and `ip route` shows it.
//
// Destinations that are no node, no pod CIDR and no excluded prefix are outside: pods reach them under the uplink's address. Nodes behind
// a tunnel are reached through it, also by their own addresses: the underlay does not know pods.
//
// The package writes only what it owns: routes of its protocol number, its device, its maps, and the sysctls that forwarding needs. It does not import client-go.
package route
