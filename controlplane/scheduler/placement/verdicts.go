// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// verdicts is what every node says, for itself alone, to pods with the same needs. Slices are indexed by node.
type verdicts struct {
	e     *Evaluator
	needs *Needs

	seq     uint64   // how far the change log is read
	version []uint64 // of the node when static was computed
	static  []Reason // from the node object alone
	local   []Reason // the first reason of all that concern the node alone
	score   []int64  // weighted sum of scores that concern the node alone
	taints  []int64  // raw score of TaintToleration
	prefers []int64  // raw score of NodeAffinity
	tainted int      // nodes with a raw score of TaintToleration

	images  []declaredImage
	storage storageView
}

// never is a position or version that nothing has.
const never = ^uint64(0)

// verdictsOf returns the verdicts on n, brought up to date.
func (e *Evaluator) verdictsOf(n *Needs) *verdicts {
	n.used = e.clock
	v := n.verdicts
	if v == nil {
		v = &verdicts{e: e, needs: n, seq: never, images: declaredImages(n)}
		n.verdicts = v
		e.kept++
		e.forget()
	}
	v.sync()
	return v
}

// sync reads the change log and looks again at the nodes in it.
func (v *verdicts) sync() {
	state := v.e.State
	again := v.storageChanged()
	again = v.imagesChanged() || again
	if v.seq == state.Seq() && !again {
		return
	}
	var changed []int32
	ok := false
	if !again && v.seq != never {
		changed, ok = state.Changes(v.seq)
	}
	v.seq = state.Seq()
	v.grow(len(state.Nodes))
	if ok {
		for _, i := range changed {
			v.look(state.Nodes[i])
		}
		return
	}
	for _, n := range state.Nodes {
		if again {
			v.version[n.Index] = never
		}
		v.look(n)
	}
}

func (v *verdicts) grow(size int) {
	for len(v.local) < size {
		v.version = append(v.version, never)
		v.static = append(v.static, absent)
		v.local = append(v.local, absent)
		v.score = append(v.score, 0)
		v.taints = append(v.taints, 0)
		v.prefers = append(v.prefers, 0)
	}
}

// look recomputes everything about node n.
func (v *verdicts) look(n *cluster.Node) {
	i := n.Index
	if n.Object == nil {
		v.setTaints(i, 0)
		v.local[i], v.static[i], v.version[i] = absent, absent, never
		return
	}
	if v.version[i] != n.Version {
		v.version[i] = n.Version
		v.static[i] = v.e.firstReason(staticFilters, v.needs, n)
		v.setTaints(i, intolerable(v.needs, n))
		v.prefers[i] = preference(v.needs, n)
	}
	v.local[i] = v.static[i]
	if v.local[i] == fits {
		v.local[i] = v.e.firstReason(usageFilters, v.needs, n)
	}
	if v.local[i] == fits {
		var sum int64
		for _, s := range localScores {
			if w := v.needs.Profile.Weights[s.plugin]; w > 0 {
				sum += w * s.score(v.e, v.needs, n)
			}
		}
		v.score[i] = sum
	}
}

func (v *verdicts) setTaints(i int32, raw int64) {
	if v.taints[i] > 0 {
		v.tainted--
	}
	if raw > 0 {
		v.tainted++
	}
	v.taints[i] = raw
}

type nodeFilter struct {
	plugin Plugin
	check  func(*Evaluator, *Needs, *cluster.Node) Reason
}

// staticFilters look at the node object only: their verdict holds until the object changes. usageFilters look at what pods use, too.
var (
	staticFilters = []nodeFilter{{NodeUnschedulable, filterUnschedulable}, {TaintToleration, filterTaints}, {NodeAffinity, filterNodeAffinity}}
	usageFilters  = []nodeFilter{{NodePorts, filterPorts}, {NodeResourcesFit, filterResources}, {VolumeBinding, filterStorage}}
)

func (e *Evaluator) firstReason(filters []nodeFilter, needs *Needs, n *cluster.Node) Reason {
	for _, f := range filters {
		if f.plugin != VolumeBinding && !needs.Profile.Filters.Has(f.plugin) { // the volume plugins look for themselves
			continue
		}
		if r := f.check(e, needs, n); r != fits {
			return r
		}
	}
	return fits
}

// localScores look at one node alone, and give 0 to MaxScore.
var localScores = []struct {
	plugin Plugin
	score  func(*Evaluator, *Needs, *cluster.Node) int64
}{
	{NodeResourcesFit, scoreResources}, {NodeResourcesBalancedAllocation, scoreBalance}, {ImageLocality, scoreImages},
	{DataLocality, scoreData}, {Interference, scorePressure},
}
