// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// View is what every node says to one class of pods: the verdicts on its needs, and the rules about topology domains.
type View struct {
	*verdicts
	class *Class

	seq       uint64 // how far the change log is read for the sums
	epoch     uint64
	dense     []*denseSum
	sparse    []*sparseSum
	counters  []*cluster.Counter
	holdings  int // how many of the state's holdings were looked at
	gates     []gate
	soft      []*softSpread
	pull      []*affinityPull
	blocked   string // set if the pod can go nowhere, whatever the nodes say
	blockedBy Plugin
}

// view returns the class's View, brought up to date.
func (e *Evaluator) view(c *Class) *View {
	e.clock++
	c.used = e.clock
	if c.view != nil && c.view.epoch != e.State.Epoch() {
		e.dropView(c)
	}
	v := c.view
	if v == nil {
		v = &View{class: c, seq: never, epoch: e.State.Epoch()}
		v.verdicts = e.verdictsOf(c.Needs)
		c.view = v
		e.kept++
		v.buildSpread()
		v.buildAffinity()
		v.holdings = e.State.MatchingHoldings(c.Namespace, c.Labels, v.follow)
		e.forget()
	} else {
		v.verdicts = e.verdictsOf(c.Needs)
		fresh := e.State.Holdings(v.holdings)
		v.holdings += len(fresh)
		for _, h := range fresh {
			if e.State.Matches(&h.Matcher, c.Namespace, c.Labels) {
				v.follow(h)
			}
		}
	}
	v.blocked, v.blockedBy = v.storage.blocked, VolumeBinding
	v.syncSums()
	return v
}

// sum adds a sum over the domains of a topology, up to date.
func (v *View) sum(topologyKey string, source cluster.PerNode) *sparseSum {
	s := newSparseSum(v.e.State.Topology(topologyKey), source, v.e.State.Nodes)
	v.sparse = append(v.sparse, s)
	return s
}

func (v *View) counter(countTerminating bool, matchers ...cluster.Matcher) *cluster.Counter {
	c := v.e.State.Counter(countTerminating, matchers...)
	v.counters = append(v.counters, c)
	return c
}

// syncSums reads the change log for the sums.
func (v *View) syncSums() {
	state := v.e.State
	if v.seq == state.Seq() {
		return
	}
	if len(v.dense)+len(v.sparse) > 0 {
		changed, ok := []int32(nil), false
		if v.seq != never {
			changed, ok = state.Changes(v.seq)
		}
		switch {
		case ok:
			for _, i := range changed {
				for _, s := range v.dense {
					s.update(state.Nodes[i])
				}
				for _, s := range v.sparse {
					s.update(state.Nodes[i])
				}
			}
		default:
			for _, s := range v.dense {
				for _, n := range state.Nodes {
					s.update(n)
				}
			}
			if v.seq != never { // a new sum is up to date
				for k := range v.sparse {
					*v.sparse[k] = *newSparseSum(v.sparse[k].topology, v.sparse[k].source, state.Nodes)
				}
			}
		}
	}
	v.seq = state.Seq()
}

// admit returns the first reason against node i, in the order of the plugins. Gates must be prepared.
func (v *View) admit(i int32) Reason {
	if r := v.local[i]; r != fits {
		return r
	}
	for _, g := range v.gates {
		if r := g.admits(i); r != fits {
			return r
		}
	}
	return fits
}

func (v *View) prepareGates() {
	for _, g := range v.gates {
		g.prepare()
	}
}

// candidates lists the nodes that nothing speaks against. The result is valid until the next call.
func (v *View) candidates() []int32 {
	out := v.e.candidates[:0]
	v.prepareGates()
	if len(v.gates) == 0 {
		for i, r := range v.local {
			if r == fits {
				out = append(out, int32(i))
			}
		}
	} else {
		for i, r := range v.local {
			if r == fits && v.admit(int32(i)) == fits {
				out = append(out, int32(i))
			}
		}
	}
	v.e.candidates = out
	return out
}

// diagnose counts the reasons of all nodes.
func (v *View) diagnose() *Diagnosis {
	d := &Diagnosis{Nodes: v.e.State.NodeCount(), Counts: map[Reason]int{}}
	if v.blocked != "" {
		d.Blocked = v.blocked
		d.Rejected = d.Rejected.With(v.blockedBy)
		return d
	}
	v.prepareGates()
	counts := make([]int, len(v.e.reasons.infos))
	for i := range v.local {
		counts[v.admit(int32(i))]++
	}
	for r, n := range counts {
		if n > 0 && Reason(r) > absent {
			d.Counts[Reason(r)] = n
			d.Rejected = d.Rejected.With(v.e.Plugin(Reason(r)))
		}
	}
	return d
}

// forget drops the Views and verdicts that were used longest ago, when there are too many. What is in use builds them again.
func (e *Evaluator) forget() {
	if e.kept > e.MaxViews {
		var ages []uint64
		for _, c := range e.classes {
			if c.view != nil {
				ages = append(ages, c.used)
			}
		}
		for _, n := range e.needs {
			if n.verdicts != nil {
				ages = append(ages, n.used)
			}
		}
		slices.Sort(ages)
		oldest := ages[len(ages)/2]
		for _, c := range e.classes {
			if c.view != nil && c.used < oldest {
				e.dropView(c)
			}
		}
		for _, n := range e.needs {
			if n.verdicts != nil && n.used < oldest {
				n.verdicts = nil
				e.kept--
			}
		}
	}
	// A pod that is queued with a class that was forgotten keeps it; only the next pod of the same kind gets a new one.
	if limit := max(4*e.MaxViews, 4*e.lastClasses); len(e.classes) > limit {
		for key, c := range e.classes {
			if c.view == nil && e.clock-c.used > uint64(limit) {
				delete(e.classes, key)
			}
		}
		for key, n := range e.needs {
			if n.verdicts == nil && e.clock-n.used > uint64(limit) {
				delete(e.needs, key)
			}
		}
		e.lastClasses = len(e.classes)
	}
}

func (e *Evaluator) dropView(c *Class) {
	for _, counter := range c.view.counters {
		e.State.ReleaseCounter(counter)
	}
	c.view = nil
	e.kept--
}
