// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// filterResources refuses a node that has too little left of some resource, counting the pods of at least the same priority that wait there.
func filterResources(e *Evaluator, c *Needs, n *cluster.Node) Reason {
	var nominated cluster.Vector
	for _, p := range n.Nominated {
		if p.Priority >= c.Priority {
			nominated = nominated.Add(p.Shape().Request, 1)
		}
	}
	return e.insufficient(c, n, nominated)
}

// insufficient says what n lacks for a pod of class c. extra is taken in addition to what its pods take (negative amounts: given back).
func (e *Evaluator) insufficient(c *Needs, n *cluster.Node, extra cluster.Vector) Reason {
	if e.enough(c, n, extra) {
		return fits
	}
	return e.lacking(c, n, extra)
}

// enough reports whether n has everything a pod with these needs requests.
func (e *Evaluator) enough(c *Needs, n *cluster.Node, extra cluster.Vector) bool {
	for i, want := range c.shape.Request {
		if want == 0 || want <= n.Allocatable.At(i)-n.Requested.At(i)-extra.At(i) {
			continue
		}
		if i > cluster.PodCount && c.Profile.ignores(e.State.Resources.Name(i)) {
			continue
		}
		return false
	}
	return true
}

// lacking builds the reason; it is off the fast path.
func (e *Evaluator) lacking(c *Needs, n *cluster.Node, extra cluster.Vector) Reason {
	var texts []string
	unresolvable := false
	for i, want := range c.shape.Request {
		if want == 0 || want <= n.Allocatable.At(i)-n.Requested.At(i)-extra.At(i) || i > cluster.PodCount && c.Profile.ignores(e.State.Resources.Name(i)) {
			continue
		}
		if i == cluster.PodCount {
			texts = append(texts, "Too many pods")
		} else {
			texts = append(texts, "Insufficient "+string(e.State.Resources.Name(i)))
		}
		unresolvable = unresolvable || want > n.Allocatable.At(i)
	}
	return e.reasons.intern(NodeResourcesFit, unresolvable, texts...)
}

func (p *Profile) ignores(name v1.ResourceName) bool {
	if p.IgnoredResources[string(name)] {
		return true
	}
	group, _, qualified := strings.Cut(string(name), "/")
	return qualified && p.IgnoredResourceGroups[group]
}

// scoreResources prefers the emptier nodes, the fuller ones or those at a point of a given curve, by the profile's strategy.
func scoreResources(e *Evaluator, c *Needs, n *cluster.Node) int64 {
	var sum, weights int64
	for _, r := range c.Profile.StrategyResources {
		i := e.State.Resources.Position(r.Name)
		capacity := n.Allocatable.At(i)
		if i > cluster.PodCount && c.shape.Request.At(i) == 0 {
			continue // a pod that does not ask for an extended resource has no opinion on it
		}
		if capacity == 0 {
			continue
		}
		used := n.Requested.At(i) + c.shape.Request.At(i)
		if i == cluster.CPU || i == cluster.Memory {
			used = n.Scored[i] + c.shape.Scored[i]
		}
		weights += r.Weight
		sum += r.Weight * c.Profile.scoreUse(used, capacity)
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

func (p *Profile) scoreUse(used, capacity int64) int64 {
	switch p.Strategy {
	case MostAllocated:
		return min(used, capacity) * MaxScore / capacity
	case RequestedToCapacityRatio:
		if used > capacity {
			return curve(p.Shape, 100)
		}
		return curve(p.Shape, 100-(capacity-used)*100/capacity)
	}
	if used > capacity {
		return 0
	}
	return (capacity - used) * MaxScore / capacity
}

// curve interpolates between the points around a utilization.
func curve(points []ShapePoint, utilization int64) int64 {
	for i, p := range points {
		if utilization > p.Utilization {
			continue
		}
		if i == 0 {
			return p.Score
		}
		before := points[i-1]
		return before.Score + (p.Score-before.Score)*(utilization-before.Utilization)/(p.Utilization-before.Utilization)
	}
	if len(points) == 0 {
		return 0
	}
	return points[len(points)-1].Score
}
