// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// fitsNominated reports whether pod, nominated to n, fits there now. Its own nomination does not stand against it.
func (v *View) fitsNominated(n *cluster.Node, pod *v1.Pod) bool {
	if v.static[n.Index] != fits {
		return false
	}
	return v.fitsWithout(n, nil, pod)
}

// fitsWithout reports whether a pod of v's class would fit n if victims, pods of n, were gone and self were not nominated there.
// What the node object itself says must have been asked before, and gates must be prepared.
func (v *View) fitsWithout(n *cluster.Node, victims []*cluster.Pod, self *v1.Pod) bool {
	e, c := v.e, v.class
	extra := e.extra[:0]
	for _, p := range n.Nominated {
		if p.Priority >= c.Priority && p.Object.UID != self.UID {
			extra = extra.Add(p.Shape().Request, 1)
		}
	}
	for _, p := range victims {
		extra = extra.Add(p.Shape().Request, -1)
	}
	e.extra = extra
	if c.Profile.Filters.Has(NodeResourcesFit) && !e.enough(c.Needs, n, extra) {
		return false
	}
	if len(c.Shape.Ports) > 0 && c.Profile.Filters.Has(NodePorts) {
		for _, p := range n.Pods {
			if !slices.Contains(victims, p) && conflict(c.Shape.Ports, p.Shape().Ports) {
				return false
			}
		}
		for _, p := range n.Nominated {
			if p.Priority >= c.Priority && p.Object.UID != self.UID && conflict(c.Shape.Ports, p.Shape().Ports) {
				return false
			}
		}
	}
	if e.firstStorageReason(c.Needs, n, victims) != fits {
		return false
	}
	for _, g := range v.gates {
		if g.without(n, victims) != fits {
			return false
		}
	}
	return true
}
