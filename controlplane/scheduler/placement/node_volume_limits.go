// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// filterLimits refuses a node to which a CSI driver cannot attach as many volumes as it would have to. Pods that share a claim share its attachment.
func (e *Evaluator) filterLimits(c *Needs, n *cluster.Node, victims []*cluster.Pod) Reason {
	storage := e.State.Storage
	csi := storage.CSINode(n.Name)
	if csi == nil {
		return fits
	}
	for i := range csi.Spec.Drivers {
		d := &csi.Spec.Drivers[i]
		if d.Allocatable == nil || d.Allocatable.Count == nil {
			continue
		}
		wanted := 0
		for _, claim := range c.claims {
			if storage.Driver(claim) == d.Name && !n.Uses(claim) {
				wanted++
			}
		}
		if wanted == 0 {
			continue
		}
		attached := 0
		n.Claims(func(claim string) {
			if storage.Driver(claim) == d.Name && !onlyUsedBy(n, claim, victims) {
				attached++
			}
		})
		if attached+wanted > int(*d.Allocatable.Count) {
			return e.reasons.intern(NodeVolumeLimits, false, "node(s) exceed max volume count")
		}
	}
	return fits
}

// onlyUsedBy reports whether no pod of n but victims uses the claim.
func onlyUsedBy(n *cluster.Node, claim string, victims []*cluster.Pod) bool {
	if len(victims) == 0 {
		return false
	}
	for _, p := range n.Pods {
		if slices.Contains(p.Claims(), claim) && !slices.Contains(victims, p) {
			return false
		}
	}
	return true
}
