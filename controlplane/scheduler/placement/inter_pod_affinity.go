// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// affinityPull is one source of InterPodAffinity's score: weight times the sum of the node's domain.
type affinityPull struct {
	agg    *sparseSum
	weight int64
}

// affinityGate refuses the domains without a pod that the class's required affinity asks for.
type affinityGate struct {
	domains
	agg     *sparseSum
	group   *affinityGroup
	counter *cluster.Counter
}

// affinityGroup is what the required affinity terms of a class share. The first pod of a group that wants to be together may go anywhere: while no
// pod matches and the pod itself would, every domain is allowed.
type affinityGroup struct {
	gates []*affinityGate
	self  bool
}

func (g *affinityGroup) first() bool {
	if !g.self {
		return false
	}
	for _, gate := range g.gates {
		if len(gate.agg.total) > 0 {
			return false
		}
	}
	return true
}

// avoidGate refuses the domains where the sum is not zero: anti-affinity of the class (counter) or of the pods that are there (holding).
type avoidGate struct {
	domains
	agg     *sparseSum
	counter *cluster.Counter
	holding *cluster.Holding
}

func (v *View) buildAffinity() {
	c, state := v.class, v.e.State
	filter := c.Profile.Filters.Has(InterPodAffinity)
	score := c.Profile.Weights[InterPodAffinity] > 0
	var required []cluster.Matcher
	for i := range c.Shape.Terms {
		if c.Shape.Terms[i].Kind == cluster.RequiredAffinity {
			required = append(required, c.Shape.Terms[i].Matcher)
		}
	}
	group := &affinityGroup{}
	// Gates of the class's own terms stand in Kubernetes' order: affinity, then anti-affinity; followHoldings adds that of other pods.
	for _, kind := range []cluster.TermKind{cluster.RequiredAffinity, cluster.RequiredAntiAffinity} {
		for i := range c.Shape.Terms {
			t := &c.Shape.Terms[i]
			if t.Kind != kind || !filter {
				continue
			}
			if kind == cluster.RequiredAffinity {
				counter := v.counter(true, required...) // a pod counts only if all terms match it
				group.self = state.Counts(counter, c.Namespace, c.Labels)
				refused := v.e.reasons.intern(InterPodAffinity, true, "node(s) didn't match pod affinity rules")
				agg := v.sum(t.TopologyKey, counter.PerNode)
				g := &affinityGate{group: group, counter: counter, agg: agg, domains: domains{topology: agg.topology, refused: refused, missing: refused}}
				group.gates = append(group.gates, g)
				v.gates = append(v.gates, g)
				continue
			}
			counter := v.counter(true, t.Matcher)
			agg := v.sum(t.TopologyKey, counter.PerNode)
			v.gates = append(v.gates, &avoidGate{counter: counter, agg: agg, domains: domains{topology: agg.topology,
				refused: v.e.reasons.intern(InterPodAffinity, false, "node(s) didn't match pod anti-affinity rules")}})
		}
	}
	for i := range c.Shape.Terms {
		t := &c.Shape.Terms[i]
		if !score || t.Kind != cluster.PreferredAffinity && t.Kind != cluster.PreferredAntiAffinity {
			continue
		}
		weight := t.Weight
		if t.Kind == cluster.PreferredAntiAffinity {
			weight = -weight
		}
		v.pull = append(v.pull, &affinityPull{agg: v.sum(t.TopologyKey, v.counter(true, t.Matcher).PerNode), weight: weight})
	}
}

// follow takes the affinity term of other pods that matches the class into account.
func (v *View) follow(h *cluster.Holding) {
	profile := v.class.Profile
	weight := int64(1) // the sum of a preferred term holds the weights
	switch h.Kind {
	case cluster.RequiredAntiAffinity:
		if profile.Filters.Has(InterPodAffinity) {
			agg := v.sum(h.TopologyKey, h.PerNode)
			v.gates = append(v.gates, &avoidGate{holding: h, agg: agg, domains: domains{topology: agg.topology,
				refused: v.e.reasons.intern(InterPodAffinity, false, "node(s) didn't satisfy existing pods anti-affinity rules")}})
		}
		return
	case cluster.RequiredAffinity:
		weight = profile.HardPodAffinityWeight
	case cluster.PreferredAntiAffinity:
		weight = -1
	}
	if weight == 0 || profile.Weights[InterPodAffinity] == 0 ||
		h.Kind != cluster.RequiredAffinity && profile.IgnorePreferredOfOther && len(v.class.Shape.Terms) == 0 {
		return
	}
	v.pull = append(v.pull, &affinityPull{agg: v.sum(h.TopologyKey, h.PerNode), weight: weight})
}

func (g *affinityGate) prepare() {
	first := g.group.first()
	g.reset(first)
	if !first {
		for domain := range g.agg.total {
			g.allowed[domain] = true
		}
	}
}

func (g *affinityGate) without(n *cluster.Node, victims []*cluster.Pod) Reason {
	domain := g.topology.Domain[n.Index]
	if domain == cluster.NoDomain {
		return g.missing
	}
	count := g.agg.count(domain)
	gone := int64(0)
	for _, p := range victims {
		if p.CountedBy(g.counter) {
			gone++
		}
	}
	if count-gone > 0 {
		return fits
	}
	// The last match is among the victims: then the pod would be the first of its group again.
	for _, other := range g.group.gates {
		left := -gone
		for _, sum := range other.agg.total {
			left += sum
		}
		if !g.group.self || left > 0 {
			return g.refused
		}
	}
	return fits
}

func (g *avoidGate) prepare() {
	g.reset(true)
	for domain := range g.agg.total {
		g.allowed[domain] = false
	}
}

func (g *avoidGate) without(n *cluster.Node, victims []*cluster.Pod) Reason {
	domain := g.topology.Domain[n.Index]
	if domain == cluster.NoDomain {
		return fits
	}
	count := g.agg.count(domain)
	for _, p := range victims {
		if g.holding != nil {
			count -= p.Weight(g.holding)
		} else if p.CountedBy(g.counter) {
			count--
		}
	}
	if count > 0 {
		return g.refused
	}
	return fits
}

// scoreAffinity sums what pulls the pod to each node's domains and scales the sums to 0..MaxScore.
func (v *View) scoreAffinity(candidates []int32, out []int64) {
	clear(out)
	for _, p := range v.pull {
		if len(p.agg.total) == 0 {
			continue
		}
		weights := v.e.ints(p.agg.topology.Domains())
		for domain, sum := range p.agg.total {
			weights[domain] = p.weight * sum
		}
		for k, i := range candidates {
			if domain := p.agg.topology.Domain[i]; domain != cluster.NoDomain {
				out[k] += weights[domain]
			}
		}
	}
	least, most := out[0], out[0]
	for _, sum := range out {
		least, most = min(least, sum), max(most, sum)
	}
	for k := range out {
		if most == least {
			out[k] = 0
		} else {
			out[k] = MaxScore * (out[k] - least) / (most - least)
		}
	}
}

// ints returns a zeroed scratch slice.
func (e *Evaluator) ints(size int) []int64 {
	if cap(e.perDomain) < size {
		e.perDomain = make([]int64, 2*size)
	}
	s := e.perDomain[:size]
	clear(s)
	return s
}
