// SPDX-License-Identifier: Apache-2.0

// Package directory holds what a DNS server needs to know of a cluster, and no more: services, the addresses and ports behind them, this node's pods.
//
//	dataplane/tables --dns/feed--> Batch --[socket]--> Directory.Apply --> View --> DNS plugins
//
// The node's tables hold the same and much else for the load balancer. The DNS server is a process of its own, which must be small and must live on
// when the agent is away, so it has this copy. Rows are immutable; a Batch is applied as a whole or, to a reader, not yet.
package directory
