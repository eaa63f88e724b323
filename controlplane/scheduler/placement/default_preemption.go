// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// Budget is a PodDisruptionBudget as preemption sees it.
type Budget struct {
	Name      string
	Selector  labels.Selector
	Allowed   int32
	Disrupted map[string]bool // pods whose disruption the budget has counted already
}

// Preemption is one way to make room.
type Preemption struct {
	Node    *cluster.Node
	Victims []*cluster.Pod // most important first
	// Message says why there is no way, in Kubernetes' wording. Node is nil then.
	Message string
	// Waiting is the node on which an earlier preemption for the same pod is under way.
	Waiting *cluster.Node

	violations int
}

// Preempt looks for a node where removing pods of lower priority makes room for r, and chooses the way that hurts least: the fewest budgets violated,
// then the lowest priority of the most important victim, the smallest sum of priorities, the fewest victims, the shortest-lived ones. It changes nothing.
func (e *Evaluator) Preempt(r Request) Preemption {
	c := r.Class
	if policy := r.Pod.Spec.PreemptionPolicy; policy != nil && *policy == v1.PreemptNever {
		return Preemption{Message: "not eligible due to preemptionPolicy=Never."}
	}
	if n := e.State.NominatedTo(r.Pod.UID); n != nil {
		for _, p := range n.Pods {
			if (p.Evicting || p.Object.DeletionTimestamp != nil) && p.Priority < c.Priority {
				return Preemption{Waiting: n, Message: "not eligible due to a terminating pod on the nominated node."}
			}
		}
	}
	v := e.view(c)
	if v.blocked != "" || c.unresolved != "" {
		return Preemption{Message: nodesUnavailable(e.State.NodeCount(), map[string]int{notHelpful: e.State.NodeCount()})}
	}
	v.prepareGates()
	enough := max(e.State.NodeCount()*c.Profile.MinCandidatePercentage/100, c.Profile.MinCandidateAbsolute)
	var best Preemption
	refused := map[string]int{}
	found := 0
	size := int32(len(v.local))
	for k := range size {
		i := (k + e.start) % size
		n := e.State.Nodes[i]
		reason := v.admit(i)
		if reason == absent {
			continue
		}
		if r.Pinned != "" && n.Name != r.Pinned || reason == fits || e.Unresolvable(reason) {
			refused[notHelpful]++
			continue
		}
		way, ok := v.victims(n, r.Pod)
		if !ok {
			refused[noVictims]++
			continue
		}
		if best.Node == nil || way.better(&best) {
			best = way
		}
		if found++; found >= enough {
			break
		}
	}
	if best.Node == nil {
		return Preemption{Message: nodesUnavailable(e.State.NodeCount(), refused)}
	}
	e.start = best.Node.Index + 1
	return best
}

const (
	notHelpful = "Preemption is not helpful for scheduling"
	noVictims  = "No preemption victims found for incoming pod"
)

// victims chooses the pods of n to remove: all of lower priority, less those that may stay, the most important and those protected by a budget first.
func (v *View) victims(n *cluster.Node, pod *v1.Pod) (Preemption, bool) {
	lower := v.e.victims[:0]
	for _, p := range n.Pods {
		if p.Priority < v.class.Priority {
			lower = append(lower, p)
		}
	}
	v.e.victims = lower
	if len(lower) == 0 || !v.fitsWithout(n, lower, pod) {
		return Preemption{}, false
	}
	slices.SortStableFunc(lower, func(a, b *cluster.Pod) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), started(a).Compare(started(b)))
	})
	protected := v.e.protected(lower)
	gone := slices.Clone(lower)
	violations := 0
	for _, first := range []bool{true, false} {
		for k, p := range lower {
			if (protected != nil && protected[k]) != first {
				continue
			}
			at := slices.Index(gone, p)
			gone = slices.Delete(gone, at, at+1)
			if !v.fitsWithout(n, gone, pod) {
				gone = slices.Insert(gone, at, p)
				if first {
					violations++
				}
			}
		}
	}
	return Preemption{Node: n, Victims: gone, violations: violations}, len(gone) > 0
}

// protected reports for each pod whether removing it, after those before it, would violate a budget. nil means none.
func (e *Evaluator) protected(pods []*cluster.Pod) []bool {
	if len(e.Budgets) == 0 {
		return nil
	}
	out := make([]bool, len(pods))
	left := map[*Budget]int32{}
	for k, p := range pods {
		for _, b := range e.Budgets[p.Object.Namespace] {
			if len(p.Object.Labels) == 0 || b.Disrupted[p.Object.Name] || !b.Selector.Matches(labels.Set(p.Object.Labels)) {
				continue
			}
			if _, known := left[b]; !known {
				left[b] = b.Allowed
			}
			left[b]--
			out[k] = out[k] || left[b] < 0
		}
	}
	return out
}

func (p *Preemption) better(o *Preemption) bool {
	return cmp.Or(
		cmp.Compare(p.violations, o.violations),
		cmp.Compare(p.Victims[0].Priority, o.Victims[0].Priority),
		cmp.Compare(p.prioritySum(), o.prioritySum()),
		cmp.Compare(len(p.Victims), len(o.Victims)),
		started(o.Victims[0]).Compare(started(p.Victims[0])), // the later started, the less is lost
	) < 0
}

// prioritySum adds up priorities, shifted to be positive so that more victims are never better.
func (p *Preemption) prioritySum() int64 {
	var sum int64
	for _, victim := range p.Victims {
		sum += int64(victim.Priority) + 1<<31
	}
	return sum
}

// String is for logs.
func (p *Preemption) String() string {
	return fmt.Sprintf("%d victims on %s", len(p.Victims), p.Node.Name)
}

func started(p *cluster.Pod) time.Time {
	if t := p.Object.Status.StartTime; t != nil {
		return t.Time
	}
	return p.Object.CreationTimestamp.Time
}
