// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// View is what every node says to one class of pods. Slices are indexed by node.
type View struct {
	e     *Evaluator
	class *Class

	seq     uint64 // how far the change log is read
	epoch   uint64
	storage uint64 // version of the storage objects
	devices uint64 // version of the device objects

	version []uint64 // of the node when static was computed
	static  []Reason // from the node object alone
	local   []Reason // the first reason of all that concern the node alone
	score   []int64  // weighted sum of scores that concern the node alone
	taints  []int64  // raw score of TaintToleration
	prefers []int64  // raw score of NodeAffinity

	anyTaints  int // nodes with a taint that the pod would rather avoid
	blocked    string
	blockedBy  Plugin
	aggregates []*aggregate
	counters   []*cluster.Counter
	holdings   int // how many of the state's holdings were looked at
	gates      []gate
	soft       []*softSpread
	pull       []*affinityPull
	images     []declaredImage
}

// view returns the class's View, brought up to date.
func (e *Evaluator) view(c *Class) *View {
	e.clock++
	c.used = e.clock
	v := c.view
	if v != nil && v.epoch != e.State.Epoch() {
		e.dropView(c)
		v = nil
	}
	if v == nil {
		v = &View{e: e, class: c, epoch: e.State.Epoch()}
		c.view = v
		e.views = append(e.views, c)
		e.evict(c)
		v.build()
	}
	v.sync()
	return v
}

// build sets up the aggregates and gates of a fresh View.
func (v *View) build() {
	v.seq, v.storage, v.devices = ^uint64(0), ^uint64(0), ^uint64(0)
	v.buildSpread()
	v.buildAffinity()
	v.images = declaredImages(v.class)
}

func (v *View) aggregate(topologyKey string, source cluster.PerNode, eligible func(*cluster.Node) bool) *aggregate {
	a := &aggregate{topology: v.e.State.Topology(topologyKey), source: source, eligible: eligible}
	v.aggregates = append(v.aggregates, a)
	if v.seq != ^uint64(0) { // the others are up to date already
		for _, n := range v.e.State.Nodes {
			a.update(n)
		}
	}
	return a
}

func (v *View) counter(countTerminating bool, matchers ...cluster.Matcher) *cluster.Counter {
	c := v.e.State.Counter(countTerminating, matchers...)
	v.counters = append(v.counters, c)
	return c
}

func (v *View) release() {
	for _, c := range v.counters {
		v.e.State.ReleaseCounter(c)
	}
	v.counters = nil
}

// sync reads the change log and looks again at the nodes in it.
func (v *View) sync() {
	state := v.e.State
	all := v.storageChanged()
	all = v.imagesChanged() || all
	v.followHoldings()
	if v.seq == state.Seq() && !all {
		return
	}
	var changed []int32
	ok := false
	if !all && v.seq != ^uint64(0) {
		changed, ok = state.Changes(v.seq)
	}
	v.seq = state.Seq()
	v.grow(len(state.Nodes))
	if !ok {
		for _, n := range state.Nodes {
			if all {
				v.version[n.Index] = ^uint64(0)
			}
			v.look(n)
		}
		return
	}
	for _, i := range changed {
		v.look(state.Nodes[i])
	}
}

func (v *View) grow(size int) {
	for len(v.local) < size {
		v.version = append(v.version, ^uint64(0))
		v.static = append(v.static, absent)
		v.local = append(v.local, absent)
		v.score = append(v.score, 0)
		v.taints = append(v.taints, 0)
		v.prefers = append(v.prefers, 0)
	}
}

// look recomputes everything that v keeps about node n.
func (v *View) look(n *cluster.Node) {
	i := n.Index
	for _, a := range v.aggregates {
		a.update(n)
	}
	if n.Object == nil {
		v.local[i], v.static[i], v.version[i] = absent, absent, ^uint64(0)
		return
	}
	if v.version[i] != n.Version {
		v.version[i] = n.Version
		v.static[i] = v.e.firstReason(staticFilters, v.class, n)
		v.taints[i] = intolerable(v.class, n)
		v.prefers[i] = preference(v.class, n)
	}
	v.local[i] = v.static[i]
	if v.local[i] == fits {
		v.local[i] = v.e.firstReason(usageFilters, v.class, n)
	}
	if v.local[i] == fits {
		var sum int64
		for _, s := range localScores {
			if w := v.class.Profile.Weights[s.plugin]; w > 0 {
				sum += w * s.score(v.e, v.class, n)
			}
		}
		v.score[i] = sum
	}
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
		for i := range v.local {
			if v.local[i] == fits && v.admit(int32(i)) == fits {
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
		r := v.admit(int32(i))
		if int(r) >= len(counts) {
			counts = append(counts, make([]int, int(r)-len(counts)+1)...)
		}
		counts[r]++
	}
	for r, n := range counts {
		if n > 0 && Reason(r) > absent {
			d.Counts[Reason(r)] = n
			d.Rejected = d.Rejected.With(v.e.Plugin(Reason(r)))
		}
	}
	return d
}

// evict drops the Views that were used longest ago, when there are too many. keep stays.
func (e *Evaluator) evict(keep *Class) {
	if len(e.views) <= e.MaxViews {
		return
	}
	slices.SortFunc(e.views, func(a, b *Class) int { return int(int64(a.used) - int64(b.used)) })
	for _, c := range slices.Clone(e.views[:len(e.views)/2]) {
		if c != keep {
			e.dropView(c)
		}
	}
	for key, c := range e.classes {
		if c.view == nil && c.used+uint64(e.MaxViews)*64 < e.clock {
			delete(e.classes, key)
		}
	}
}

func (e *Evaluator) dropView(c *Class) {
	if c.view == nil {
		return
	}
	c.view.release()
	c.view = nil
	e.views = slices.DeleteFunc(e.views, func(o *Class) bool { return o == c })
}
