// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// aggregate sums a per-node count over the domains of one topology, by difference: it remembers what each node contributed and to which domain.
type aggregate struct {
	topology *cluster.Topology
	source   cluster.PerNode
	eligible func(*cluster.Node) bool // nil: every node counts

	at    []int32 // by node: the domain its count stands in, or cluster.NoDomain
	value []int64 // by node: the count
	sum   []int64 // by domain
	nodes []int32 // by domain: how many eligible nodes it has
	live  int     // domains with nodes
	total int64
}

// update brings the contribution of node n up to date.
func (a *aggregate) update(n *cluster.Node) {
	for int(n.Index) >= len(a.at) {
		a.at = append(a.at, cluster.NoDomain)
		a.value = append(a.value, 0)
	}
	domain := int32(cluster.NoDomain)
	if n.Object != nil && (a.eligible == nil || a.eligible(n)) {
		domain = a.topology.Domain[n.Index]
	}
	var value int64
	if domain != cluster.NoDomain {
		value = a.source[n.Index]
	}
	if old := a.at[n.Index]; old != domain {
		if old != cluster.NoDomain {
			a.sum[old] -= a.value[n.Index]
			a.total -= a.value[n.Index]
			if a.nodes[old]--; a.nodes[old] == 0 {
				a.live--
			}
		}
		a.value[n.Index] = 0
		a.at[n.Index] = domain
		if domain != cluster.NoDomain {
			for int(domain) >= len(a.sum) {
				a.sum = append(a.sum, 0)
				a.nodes = append(a.nodes, 0)
			}
			if a.nodes[domain]++; a.nodes[domain] == 1 {
				a.live++
			}
		}
	}
	if delta := value - a.value[n.Index]; delta != 0 {
		a.sum[domain] += delta
		a.total += delta
		a.value[n.Index] = value
	}
}

// count returns the sum of a domain, which may be newer than the last update.
func (a *aggregate) count(domain int32) int64 {
	if int(domain) < len(a.sum) {
		return a.sum[domain]
	}
	return 0
}

// least returns the smallest sum of a domain that has eligible nodes, 0 if there is none.
func (a *aggregate) least() int64 {
	least, found := int64(0), false
	for d, sum := range a.sum {
		if a.nodes[d] > 0 && (!found || sum < least) {
			least, found = sum, true
		}
	}
	return least
}
