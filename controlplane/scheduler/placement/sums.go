// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// A sum adds up a per-node count over the domains of one topology, by difference: it remembers what each node contributed and to which domain.

// denseSum knows all nodes: topology spread asks how many domains there are and what the least one has, where most nodes have something.
type denseSum struct {
	topology *cluster.Topology
	source   cluster.PerNode
	eligible func(*cluster.Node) bool // whether a node counts

	at    []int32 // by node: the domain its count stands in, or cluster.NoDomain
	value []int64 // by node: the count
	total []int64 // by domain
	nodes []int32 // by domain: how many eligible nodes it has
	live  int     // domains with nodes
}

// update brings the contribution of node n up to date.
func (s *denseSum) update(n *cluster.Node) {
	for int(n.Index) >= len(s.at) {
		s.at = append(s.at, cluster.NoDomain)
		s.value = append(s.value, 0)
	}
	domain := int32(cluster.NoDomain)
	if n.Object != nil && s.eligible(n) {
		domain = s.topology.Domain[n.Index]
	}
	if old := s.at[n.Index]; old != domain {
		if old != cluster.NoDomain {
			s.total[old] -= s.value[n.Index]
			if s.nodes[old]--; s.nodes[old] == 0 {
				s.live--
			}
		}
		s.value[n.Index] = 0
		s.at[n.Index] = domain
		if domain != cluster.NoDomain {
			for int(domain) >= len(s.total) {
				s.total = append(s.total, 0)
				s.nodes = append(s.nodes, 0)
			}
			if s.nodes[domain]++; s.nodes[domain] == 1 {
				s.live++
			}
		}
	}
	if domain != cluster.NoDomain {
		value := s.source[n.Index]
		s.total[domain] += value - s.value[n.Index]
		s.value[n.Index] = value
	}
}

// count returns the sum of a domain.
func (s *denseSum) count(domain int32) int64 {
	if int(domain) < len(s.total) {
		return s.total[domain]
	}
	return 0
}

// least returns the smallest sum of a domain that has eligible nodes, 0 if there is none.
func (s *denseSum) least() int64 {
	least, found := int64(0), false
	for d, sum := range s.total {
		if s.nodes[d] > 0 && (!found || sum < least) {
			least, found = sum, true
		}
	}
	return least
}

// sparseSum knows only the nodes that have something: few pods match an affinity term.
type sparseSum struct {
	topology *cluster.Topology
	source   cluster.PerNode
	parts    map[int32]part  // by node
	total    map[int32]int64 // by domain
}

type part struct {
	domain int32
	value  int64
}

func newSparseSum(t *cluster.Topology, source cluster.PerNode, nodes []*cluster.Node) *sparseSum {
	s := &sparseSum{topology: t, source: source, parts: map[int32]part{}, total: map[int32]int64{}}
	for i := range source {
		s.update(nodes[i])
	}
	return s
}

// update brings the contribution of node n up to date.
func (s *sparseSum) update(n *cluster.Node) {
	next := part{domain: cluster.NoDomain}
	if n.Object != nil {
		next = part{s.topology.Domain[n.Index], s.source[n.Index]}
	}
	if next.domain == cluster.NoDomain {
		next.value = 0
	}
	old, known := s.parts[n.Index]
	if known && old == next || !known && next.value == 0 {
		return
	}
	if known {
		s.add(old.domain, -old.value)
		delete(s.parts, n.Index)
	}
	if next.value != 0 {
		s.add(next.domain, next.value)
		s.parts[n.Index] = next
	}
}

func (s *sparseSum) add(domain int32, value int64) {
	if sum := s.total[domain] + value; sum == 0 {
		delete(s.total, domain)
	} else {
		s.total[domain] = sum
	}
}

// count returns the sum of a domain.
func (s *sparseSum) count(domain int32) int64 { return s.total[domain] }
