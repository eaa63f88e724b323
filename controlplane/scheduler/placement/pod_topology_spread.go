// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// spreadConstraint is one topology spread constraint of a class.
type spreadConstraint struct {
	key          string
	matcher      cluster.Matcher
	hard         bool
	maxSkew      int64
	minDomains   int
	self         int64 // 1 if the pod counts itself
	honorTaints  bool
	ignoreLabels bool // count nodes that the pod's node affinity refuses
	everyKey     bool // a node must have the labels of all constraints to count
}

// spreadConstraints returns the constraints of pod or, if it has none and defaults is set, those of the profile.
func spreadConstraints(pod *v1.Pod, profile *Profile, defaults labels.Selector) ([]spreadConstraint, error) {
	list, own := pod.Spec.TopologySpreadConstraints, true
	if len(list) == 0 {
		if defaults == nil || defaults.Empty() {
			return nil, nil
		}
		list, own = profile.DefaultConstraints, false
	}
	var out []spreadConstraint
	for i := range list {
		c := &list[i]
		selector := defaults
		if own {
			var err error
			if selector, err = metav1.LabelSelectorAsSelector(c.LabelSelector); err != nil {
				return nil, fmt.Errorf("topologySpreadConstraints[%d]: %w", i, err)
			}
			if selector, err = cluster.WithLabelKeys(selector, pod.Labels, c.MatchLabelKeys, nil); err != nil {
				return nil, fmt.Errorf("topologySpreadConstraints[%d]: %w", i, err)
			}
		}
		sc := spreadConstraint{key: c.TopologyKey, matcher: cluster.NewMatcher([]string{pod.Namespace}, nil, selector),
			hard: c.WhenUnsatisfiable == v1.DoNotSchedule, maxSkew: int64(c.MaxSkew), minDomains: 1, everyKey: own || !profile.SystemDefaults,
			honorTaints:  c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor,
			ignoreLabels: c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == v1.NodeInclusionPolicyIgnore}
		if c.MinDomains != nil {
			sc.minDomains = int(*c.MinDomains)
		}
		if selector.Matches(labels.Set(pod.Labels)) {
			sc.self = 1
		}
		out = append(out, sc)
	}
	return out, nil
}

// spreadGate refuses the domains where one more pod would exceed maxSkew.
type spreadGate struct {
	domains
	spreadConstraint
	agg     *denseSum
	counter *cluster.Counter
	least   int64
}

// softSpread is a constraint that only scores.
type softSpread struct {
	agg *denseSum
	spreadConstraint
}

func (v *View) buildSpread() {
	c := v.class
	var keys [2][]*cluster.Topology // of soft and of hard constraints
	for i := range c.spread {
		sc := &c.spread[i]
		keys[index(sc.hard)] = append(keys[index(sc.hard)], v.e.State.Topology(sc.key))
	}
	filter := c.Profile.Filters.Has(PodTopologySpread)
	score := c.Profile.Weights[PodTopologySpread] > 0
	for _, sc := range c.spread {
		if sc.hard && !filter || !sc.hard && !score {
			continue
		}
		counter := v.counter(false, sc.matcher)
		agg := &denseSum{topology: v.e.State.Topology(sc.key), source: counter.PerNode, eligible: v.spreadEligible(sc, keys[index(sc.hard)])}
		v.dense = append(v.dense, agg)
		if !sc.hard {
			v.soft = append(v.soft, &softSpread{agg: agg, spreadConstraint: sc})
			continue
		}
		v.gates = append(v.gates, &spreadGate{spreadConstraint: sc, counter: counter, agg: agg, domains: domains{topology: agg.topology,
			refused: v.e.reasons.intern(PodTopologySpread, false, "node(s) didn't match pod topology spread constraints"),
			missing: v.e.reasons.intern(PodTopologySpread, true, "node(s) didn't match pod topology spread constraints (missing required label)")}})
	}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// spreadEligible says whose pods a constraint counts: nodes with all the labels, and that the pod could go to by its node affinity
// (nodeAffinityPolicy) and tolerations (nodeTaintsPolicy).
func (v *View) spreadEligible(sc spreadConstraint, keys []*cluster.Topology) func(*cluster.Node) bool {
	c := v.class
	return func(n *cluster.Node) bool {
		if sc.everyKey {
			for _, t := range keys {
				if t.Domain[n.Index] == cluster.NoDomain {
					return false
				}
			}
		}
		if !sc.ignoreLabels && c.selective {
			if ok, _ := c.required.Match(n.Object); !ok {
				return false
			}
		}
		if sc.honorTaints {
			if _, found := untolerated(n, c.Sample.Spec.Tolerations); found {
				return false
			}
		}
		return true
	}
}

func (g *spreadGate) prepare() {
	g.least = g.agg.least()
	if g.agg.live < g.minDomains {
		g.least = 0
	}
	most := g.maxSkew + g.least - g.self
	g.reset(most >= 0)
	for domain, count := range g.agg.total {
		g.allowed[domain] = count <= most
	}
}

func (g *spreadGate) without(n *cluster.Node, victims []*cluster.Pod) Reason {
	domain := g.topology.Domain[n.Index]
	if domain == cluster.NoDomain {
		return g.missing
	}
	count := g.agg.count(domain)
	least := g.least
	if int(n.Index) < len(g.agg.at) && g.agg.at[n.Index] == domain {
		for _, p := range victims {
			if p.CountedBy(g.counter) {
				count--
			}
		}
		least = min(least, count)
	}
	if count+g.self-least > g.maxSkew {
		return g.refused
	}
	return fits
}

// scoreSpread prefers domains with fewer matching pods. A topology with many domains weighs more, by the logarithm of their number, and maxSkew waters
// small differences down.
func (v *View) scoreSpread(candidates []int32, out []int64) {
	const ignored = -1
	clear(out)
	for _, s := range v.soft {
		for k, i := range candidates {
			if s.everyKey && s.topology().Domain[i] == cluster.NoDomain {
				out[k] = ignored
			}
		}
	}
	sums := v.e.floats(len(out))
	for _, s := range v.soft {
		weight := math.Log(float64(s.domainsAmong(candidates, out) + 2))
		constant := float64(s.maxSkew - 1)
		domain, values, totals := s.topology().Domain, s.agg.value, s.agg.total
		perHost := s.key == v1.LabelHostname
		for k, i := range candidates {
			d := domain[i]
			if d == cluster.NoDomain {
				continue
			}
			count := int64(0)
			if perHost {
				count = values[i]
			} else if int(d) < len(totals) {
				count = totals[d]
			}
			sums[k] += float64(count)*weight + constant
		}
	}
	least, most := int64(math.MaxInt64), int64(0)
	for k := range out {
		if out[k] == ignored {
			continue
		}
		out[k] = int64(sums[k] + 0.5)
		least, most = min(least, out[k]), max(most, out[k])
	}
	// Few different sums occur, so the division is done once for each.
	var table [256]int64
	for offset := range table {
		if most > 0 {
			table[offset] = MaxScore * (most - int64(offset)) / most
		} else {
			table[offset] = MaxScore
		}
	}
	for k, sum := range out {
		switch {
		case sum == ignored:
			out[k] = 0
		case sum-least < int64(len(table)):
			out[k] = table[sum-least]
		default:
			out[k] = MaxScore * (most + least - sum) / most
		}
	}
}

func (s *softSpread) topology() *cluster.Topology { return s.agg.topology }

// domainsAmong counts the domains of the candidates that are not ignored (out[k] < 0).
func (s *softSpread) domainsAmong(candidates []int32, out []int64) int {
	count := 0
	if s.key == v1.LabelHostname {
		for k := range out {
			if out[k] >= 0 {
				count++
			}
		}
		return count
	}
	seen := make([]bool, s.agg.topology.Domains()+1) // the last place is for nodes without the label
	for k, i := range candidates {
		if out[k] < 0 {
			continue
		}
		d := s.agg.topology.Domain[i]
		if d == cluster.NoDomain {
			d = int32(len(seen) - 1)
		}
		if !seen[d] {
			seen[d] = true
			count++
		}
	}
	return count
}

// floats returns a zeroed scratch slice.
func (e *Evaluator) floats(size int) []float64 {
	if cap(e.scratch) < size {
		e.scratch = make([]float64, 2*size)
	}
	s := e.scratch[:size]
	clear(s)
	return s
}
