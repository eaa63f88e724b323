// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// filterExclusive refuses every node while another pod uses a claim with access mode ReadWriteOncePod. Preemption of that pod would help.
func (e *Evaluator) filterExclusive(c *Needs, view *storageView, _ *cluster.Node, victims []*cluster.Pod) Reason {
	if view.users == 0 {
		return fits
	}
	users := view.users
	for i, claim := range view.claims {
		if claim == nil || !exclusive(claim) {
			continue
		}
		for _, p := range victims {
			if slices.Contains(p.Claims(), c.claims[i]) {
				users--
			}
		}
	}
	if users <= 0 {
		return fits
	}
	return e.reasons.intern(VolumeRestrictions, false, "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode")
}
