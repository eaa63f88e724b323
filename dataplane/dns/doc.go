// SPDX-License-Identifier: Apache-2.0

// Package dns is the node's DNS server: CoreDNS with a plugin of our own for the cluster's names.
//
//	dataplane/tables (services, endpoint slices) --read--> Zone.Lookup --> plugin "fairlead" --+
//	                                                                       cache, forward, ... +--> CoreDNS --> UDP/TCP of the node
//
// It has no watch and no cache of its own for cluster names: an answer is what the tables say at that moment. Names and records follow the
// Kubernetes DNS-based service discovery specification, version 1.1.0 ("the specification" below).
package dns
