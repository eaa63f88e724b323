// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// Evaluator finds nodes for pods. It is not safe for concurrent use.
type Evaluator struct {
	State *cluster.State
	// Defaults finds what default topology spread constraints count; nil turns them off.
	Defaults Defaults
	// Budgets are the disruption budgets by namespace, which preemption spares if it can.
	Budgets map[string][]*Budget
	Devices *Devices
	// MaxViews bounds how many Views and verdicts are kept; each takes about 50 bytes per node.
	MaxViews int

	reasons     *reasons
	needs       map[string]*Needs
	classes     map[string]*Class
	kept        int // how many Views and verdicts there are
	lastClasses int // how many classes were left when they were last cleaned up
	clock       uint64
	candidates  []int32
	totals      []int64
	raw         []int64
	scratch     []float64
	victims     []*cluster.Pod
	perDomain   []int64
	extra       cluster.Vector
	start       int32 // where the search for the best node begins, so that equals take turns
}

// New returns an Evaluator over state.
func New(state *cluster.State) *Evaluator {
	return &Evaluator{State: state, MaxViews: 512, reasons: newReasons(), Budgets: map[string][]*Budget{}, Devices: NewDevices(), needs: map[string]*Needs{}, classes: map[string]*Class{}}
}

// Result is where a pod should go, or why nowhere.
type Result struct {
	Node      *cluster.Node   // nil: nowhere
	Feasible  int             // how many nodes would do
	Diagnosis *Diagnosis      // set if Node is nil
	Devices   *DeviceDecision // set if the pod has device claims
}

// Place finds the best node for r. It changes nothing; the caller assumes the pod there.
func (e *Evaluator) Place(r Request) Result {
	v := e.view(r.Class)
	if bad := cmp.Or(r.Class.unresolved, r.Class.bad); bad != "" {
		return Result{Diagnosis: &Diagnosis{Nodes: e.State.NodeCount(), Blocked: bad}}
	}
	if v.blocked != "" {
		return Result{Diagnosis: v.diagnose()}
	}
	if len(r.Pod.Spec.ResourceClaims) > 0 && r.Class.Profile.Filters.Has(DynamicResources) {
		return e.placeWithDevices(v, r)
	}
	if n := e.State.NominatedTo(r.Pod.UID); n != nil {
		v.prepareGates()
		if (r.Pinned == "" || r.Pinned == n.Name) && v.fitsNominated(n, r.Pod) {
			return Result{Node: n, Feasible: 1}
		}
	}
	if r.Pinned != "" {
		return e.placePinned(v, r)
	}
	if best, feasible, simple := v.bestLocal(); simple {
		if feasible == 0 {
			return Result{Diagnosis: v.diagnose()}
		}
		e.start = best + 1
		return Result{Node: e.State.Nodes[best], Feasible: feasible}
	}
	candidates := v.candidates()
	switch len(candidates) {
	case 0:
		return Result{Diagnosis: v.diagnose()}
	case 1:
		return Result{Node: e.State.Nodes[candidates[0]], Feasible: 1}
	}
	totals := v.totals(candidates)
	// The first best node from start on wins, and the next search starts behind it.
	best := -1
	split := 0
	for split < len(candidates) && candidates[split] < e.start {
		split++
	}
	for k := range candidates {
		i := k + split
		if i >= len(candidates) {
			i -= len(candidates)
		}
		if best < 0 || totals[i] > totals[best] {
			best = i
		}
	}
	e.start = candidates[best] + 1
	return Result{Node: e.State.Nodes[candidates[best]], Feasible: len(candidates)}
}

// bestLocal finds the best node in one pass if nothing but the nodes themselves is to be considered; otherwise simple is false.
func (v *View) bestLocal() (best int32, feasible int, simple bool) {
	if len(v.gates)+len(v.soft)+len(v.pull)+len(v.class.preferred)+v.tainted > 0 {
		return 0, 0, false
	}
	best, most := int32(0), int64(-1)
	split := min(int(v.e.start), len(v.local))
	scan := func(from, to int) {
		local, score := v.local[from:to], v.score[from:to]
		for k, r := range local {
			if r != fits {
				continue
			}
			feasible++
			if score[k] > most {
				best, most = int32(from+k), score[k]
			}
		}
	}
	scan(split, len(v.local))
	scan(0, split)
	return best, feasible, true
}

// placePinned places a pod that may go to one node only.
func (e *Evaluator) placePinned(v *View, r Request) Result {
	n := e.State.Node(r.Pinned)
	reason := absent
	if n != nil {
		v.prepareGates()
		if reason = v.admit(n.Index); reason == fits {
			return Result{Node: n, Feasible: 1}
		}
	}
	d := &Diagnosis{Nodes: e.State.NodeCount(), Counts: map[Reason]int{}}
	others := d.Nodes
	if reason != absent {
		d.Counts[reason] = 1
		d.Rejected = d.Rejected.With(e.Plugin(reason))
		others--
	}
	if others > 0 {
		other := e.reasons.intern(NodeAffinity, true, "node(s) didn't satisfy plugin(s) [NodeAffinity]")
		d.Counts[other] = others
		d.Rejected = d.Rejected.With(NodeAffinity)
	}
	return Result{Diagnosis: d}
}

// totals sums the weighted scores of candidates. The result is valid until the next call.
func (v *View) totals(candidates []int32) []int64 {
	e := v.e
	if cap(e.totals) < len(candidates) {
		e.totals = make([]int64, len(candidates), 2*len(candidates))
		e.raw = make([]int64, len(candidates), 2*len(candidates))
	}
	totals, raw := e.totals[:len(candidates)], e.raw[:len(candidates)]
	for k, i := range candidates {
		totals[k] = v.score[i]
	}
	for _, s := range v.fieldScores() {
		s.score(candidates, raw)
		for k := range raw {
			totals[k] += s.weight * raw[k]
		}
	}
	return totals
}

// fieldScore is a score that depends on all candidates together. score fills out with values of 0 to MaxScore, one per candidate.
type fieldScore struct {
	plugin Plugin
	weight int64
	score  func(candidates []int32, out []int64)
}

func (v *View) fieldScores() []fieldScore {
	var scores []fieldScore
	add := func(p Plugin, wanted bool, score func([]int32, []int64)) {
		if w := v.class.Profile.Weights[p]; w > 0 && wanted {
			scores = append(scores, fieldScore{p, w, score})
		}
	}
	add(TaintToleration, v.tainted > 0, func(candidates []int32, out []int64) { v.proportional(v.taints, candidates, out, true) })
	add(NodeAffinity, len(v.class.preferred) > 0, func(candidates []int32, out []int64) { v.proportional(v.prefers, candidates, out, false) })
	add(PodTopologySpread, len(v.soft) > 0, v.scoreSpread)
	add(InterPodAffinity, len(v.pull) > 0, v.scoreAffinity)
	return scores
}

// proportional scales raw values so that the largest of the candidates gets MaxScore, or 0 if reverse.
func (v *View) proportional(values []int64, candidates []int32, out []int64, reverse bool) {
	var most int64
	for k, i := range candidates {
		out[k] = values[i]
		most = max(most, values[i])
	}
	for k := range out {
		if most > 0 {
			out[k] = out[k] * MaxScore / most
		}
		if reverse {
			out[k] = MaxScore - out[k]
		}
	}
}
