// SPDX-License-Identifier: Apache-2.0

package cluster

// NoDomain is the domain of a node without the topology's label, or of no node.
const NoDomain = -1

// Topology interns the values of one node label as domain numbers.
type Topology struct {
	Key     string
	Domain  []int32 // by node index; NoDomain where the label is missing
	values  []string
	domains map[string]int32
}

// Domains returns how many domain numbers have been given so far.
func (t *Topology) Domains() int { return len(t.values) }

// Value returns the label value of a domain.
func (t *Topology) Value(domain int32) string { return t.values[domain] }

func (t *Topology) set(n *Node) {
	for int(n.Index) >= len(t.Domain) {
		t.Domain = append(t.Domain, NoDomain)
	}
	t.Domain[n.Index] = NoDomain
	if n.Object == nil {
		return
	}
	value, ok := n.Object.Labels[t.Key]
	if !ok {
		return
	}
	d, ok := t.domains[value]
	if !ok {
		d = int32(len(t.values))
		t.domains[value] = d
		t.values = append(t.values, value)
	}
	t.Domain[n.Index] = d
}

// Topology returns the domains of a node label, and follows them from now on.
func (s *State) Topology(key string) *Topology {
	if t := s.topologies[key]; t != nil {
		return t
	}
	t := &Topology{Key: key, domains: map[string]int32{}}
	for _, n := range s.Nodes {
		t.set(n)
	}
	s.topologies[key] = t
	return t
}
