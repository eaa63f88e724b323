// SPDX-License-Identifier: Apache-2.0

// Package loadbalancer programs Kubernetes Services into the kernel.
//
//	tables.Services ─┐                                             ┌─ backends, slots, vip_filter (shared memory)
//	tables.EndpointSlices ─┼─ changed names ─> desired ─> reconcile ─┼─ services, source_ranges (batched)
//	tables.Nodes, own addresses ─┘                                  └─ names file, health-check servers, status
//
// desired computes, from table rows alone, what a service should look like; reconcile is the only writer of the maps. It compares with what it
// wrote before, and after a start with what the kernel holds: ids of service ports and rows of backends are adopted from there, so a restarted
// agent disturbs no connection.
//
// The order of writes makes every step harmless to packets in flight: backend rows, then the slot run that lists them, then the services entry
// that points to the run (one atomic replacement). What is no longer referred to is reused only after Quarantine.
//
// This package never talks to Kubernetes and never touches packets. The programs are in bpf/: sock.c (socket hooks), xdp.c and uplink.c.
package loadbalancer
