// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// affinityPull is one source of InterPodAffinity's score: weight times the sum of the node's domain.
type affinityPull struct {
	agg    *aggregate
	weight int64
}

// affinityGate refuses the domains without a pod that the class's required affinity asks for.
type affinityGate struct {
	domains
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
		if gate.agg.total > 0 {
			return false
		}
	}
	return true
}

// avoidGate refuses the domains where the sum is not zero: anti-affinity of the class (counter) or of the pods that are there (holding).
type avoidGate struct {
	domains
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
				g := &affinityGate{group: group, counter: counter,
					domains: domains{agg: v.aggregate(t.TopologyKey, counter.PerNode, nil), refused: refused, missing: refused}}
				group.gates = append(group.gates, g)
				v.gates = append(v.gates, g)
				continue
			}
			counter := v.counter(true, t.Matcher)
			v.gates = append(v.gates, &avoidGate{counter: counter, domains: domains{agg: v.aggregate(t.TopologyKey, counter.PerNode, nil),
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
		v.pull = append(v.pull, &affinityPull{agg: v.aggregate(t.TopologyKey, v.counter(true, t.Matcher).PerNode, nil), weight: weight})
	}
}

// followHoldings looks at the affinity terms that pods have brought since the last time, and keeps those that match the class.
func (v *View) followHoldings() {
	c, state := v.class, v.e.State
	fresh := state.Holdings(v.holdings)
	v.holdings += len(fresh)
	for _, h := range fresh {
		if !state.Matches(&h.Matcher, c.Namespace, c.Labels) {
			continue
		}
		weight := int64(0)
		switch h.Kind {
		case cluster.RequiredAntiAffinity:
			if c.Profile.Filters.Has(InterPodAffinity) {
				v.gates = append(v.gates, &avoidGate{holding: h, domains: domains{agg: v.aggregate(h.TopologyKey, h.PerNode, nil),
					refused: v.e.reasons.intern(InterPodAffinity, false, "node(s) didn't satisfy existing pods anti-affinity rules")}})
			}
			continue
		case cluster.RequiredAffinity:
			weight = c.Profile.HardPodAffinityWeight
		case cluster.PreferredAffinity:
			weight = 1 // the sum holds the terms' weights
		case cluster.PreferredAntiAffinity:
			weight = -1
		}
		if h.Kind != cluster.RequiredAffinity && c.Profile.IgnorePreferredOfOther && len(c.Shape.Terms) == 0 {
			continue
		}
		if weight != 0 && c.Profile.Weights[InterPodAffinity] > 0 {
			v.pull = append(v.pull, &affinityPull{agg: v.aggregate(h.TopologyKey, h.PerNode, nil), weight: weight})
		}
	}
}

func (g *affinityGate) prepare() {
	if g.group.first() {
		g.judge(func(int64) bool { return true })
		return
	}
	g.judge(func(count int64) bool { return count > 0 })
}

func (g *affinityGate) without(n *cluster.Node, victims []*cluster.Pod) Reason {
	domain := g.agg.topology.Domain[n.Index]
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
	for _, other := range g.group.gates {
		if !g.group.self || other.agg.total-gone > 0 {
			return g.refused
		}
	}
	return fits
}

func (g *avoidGate) prepare() {
	g.judge(func(count int64) bool { return count == 0 })
}

func (g *avoidGate) without(n *cluster.Node, victims []*cluster.Pod) Reason {
	domain := g.agg.topology.Domain[n.Index]
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
		if p.agg.total == 0 {
			continue
		}
		for k, i := range candidates {
			if domain := p.agg.topology.Domain[i]; domain != cluster.NoDomain {
				out[k] += p.weight * p.agg.count(domain)
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
