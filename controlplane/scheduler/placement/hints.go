// SPDX-License-Identifier: Apache-2.0

package placement

import (
	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// Local reports whether nothing that concerns n alone speaks against a pod of class c there.
func (e *Evaluator) Local(c *Class, n *cluster.Node) bool {
	return n.Object != nil && e.firstReason(staticFilters, c.Needs, n) == fits && e.firstReason(usageFilters, c.Needs, n) == fits
}

// Attracts reports whether a pod's presence can lift a rejection of class c by affinity or topology spread: c wants to be near it, or c's spread
// counts it.
func (e *Evaluator) Attracts(c *Class, pod *v1.Pod) bool {
	for i := range c.Shape.Terms {
		if t := &c.Shape.Terms[i]; t.Kind == cluster.RequiredAffinity && e.State.Matches(&t.Matcher, pod.Namespace, pod.Labels) {
			return true
		}
	}
	return e.spreads(c, pod)
}

// Repels reports whether a pod's absence can lift a rejection of class c by anti-affinity, of either side, or by topology spread.
func (e *Evaluator) Repels(c *Class, pod *v1.Pod) bool {
	for i := range c.Shape.Terms {
		if t := &c.Shape.Terms[i]; t.Kind == cluster.RequiredAntiAffinity && e.State.Matches(&t.Matcher, pod.Namespace, pod.Labels) {
			return true
		}
	}
	terms, _ := cluster.Terms(pod)
	for i := range terms {
		if t := &terms[i]; t.Kind == cluster.RequiredAntiAffinity && e.State.Matches(&t.Matcher, c.Namespace, c.Labels) {
			return true
		}
	}
	return e.spreads(c, pod)
}

func (e *Evaluator) spreads(c *Class, pod *v1.Pod) bool {
	for i := range c.spread {
		if c.spread[i].hard && e.State.Matches(&c.spread[i].matcher, pod.Namespace, pod.Labels) {
			return true
		}
	}
	return false
}
