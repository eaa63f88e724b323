// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// zoneLabels are the labels by which a volume says where it is, with the older name of each.
var zoneLabels = [][2]string{{v1.LabelTopologyZone, v1.LabelFailureDomainBetaZone}, {v1.LabelTopologyRegion, v1.LabelFailureDomainBetaRegion}}

// filterZone refuses a node outside the zone or region that a bound volume's labels name. Several zones stand as "a__b". A node that names neither
// zone nor region is let through.
func (e *Evaluator) filterZone(view *storageView, n *cluster.Node) Reason {
	node := n.Object.Labels
	placed := false
	for _, names := range zoneLabels {
		_, ok := label(node, names)
		placed = placed || ok
	}
	if !placed {
		return fits
	}
	for _, pv := range view.bound {
		if pv == nil {
			continue
		}
		for _, names := range zoneLabels {
			wanted, ok := label(pv.Labels, names)
			if !ok {
				continue
			}
			if got, _ := label(node, names); !slices.Contains(strings.Split(wanted, "__"), got) {
				return e.reasons.intern(VolumeZone, true, "node(s) had no available volume zone")
			}
		}
	}
	return fits
}

func label(set map[string]string, names [2]string) (string, bool) {
	for _, name := range names {
		if value, ok := set[name]; ok {
			return value, true
		}
	}
	return "", false
}
