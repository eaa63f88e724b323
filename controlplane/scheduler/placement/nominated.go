// SPDX-License-Identifier: Apache-2.0

package placement

import (
	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// fitsNominated reports whether pod, nominated to n, fits there now. Its own nomination does not stand against it.
func (v *View) fitsNominated(n *cluster.Node, pod *v1.Pod) bool {
	if v.static[n.Index] != fits {
		return false
	}
	return v.without(n, nil, pod) == fits
}

// without returns the first reason against n for a pod of v's class as if victims, pods of n, were gone and self were not nominated there.
// Gates must be prepared.
func (v *View) without(n *cluster.Node, victims []*cluster.Pod, self *v1.Pod) Reason {
	e, c := v.e, v.class
	var extra cluster.Vector
	var ports []cluster.HostPort
	for _, p := range n.Nominated {
		if p.Priority >= c.Priority && p.Object.UID != self.UID {
			extra = extra.Add(p.Shape().Request, 1)
			ports = append(ports, p.Shape().Ports...)
		}
	}
	for _, p := range victims {
		extra = extra.Add(p.Shape().Request, -1)
	}
	if len(c.Shape.Ports) > 0 && c.Profile.Filters.Has(NodePorts) {
		for _, p := range n.Pods {
			if !contains(victims, p) {
				ports = append(ports, p.Shape().Ports...)
			}
		}
		if conflict(c.Shape.Ports, ports) {
			return e.portsTaken()
		}
	}
	if c.Profile.Filters.Has(NodeResourcesFit) {
		if r := e.insufficient(c, n, extra); r != fits {
			return r
		}
	}
	for _, g := range v.gates {
		if r := g.without(n, victims); r != fits {
			return r
		}
	}
	return fits
}

func contains(pods []*cluster.Pod, p *cluster.Pod) bool {
	for _, o := range pods {
		if o == p {
			return true
		}
	}
	return false
}
