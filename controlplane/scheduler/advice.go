// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

// remedies say what would help against a plugin's refusal.
var remedies = map[placement.Plugin]string{
	placement.NodeUnschedulable:  "uncordon nodes",
	placement.TaintToleration:    "add a toleration or remove the taint",
	placement.NodeAffinity:       "label a node as nodeSelector or node affinity ask, or relax them",
	placement.NodePorts:          "free the host port or use a Service instead of hostPort",
	placement.NodeResourcesFit:   "lower the requests, remove pods or add nodes",
	placement.VolumeBinding:      "provide a volume that the node can reach",
	placement.VolumeZone:         "add nodes in the volume's zone",
	placement.VolumeRestrictions: "remove the other pod that uses the volume",
	placement.NodeVolumeLimits:   "add nodes: each attaches a limited number of volumes",
	placement.PodTopologySpread:  "add nodes in the emptiest domain, or raise maxSkew",
	placement.InterPodAffinity:   "add nodes, or relax pod affinity and anti-affinity",
	placement.DynamicResources:   "provide devices that the claim asks for",
}

// advice says what would help most: against the refusal that most nodes gave.
func advice(d *placement.Diagnosis, e *placement.Evaluator) string {
	counts := map[placement.Plugin]int{}
	for reason, n := range d.Counts {
		counts[e.Plugin(reason)] += n
	}
	best, most := placement.Plugin(0), 0
	for plugin, n := range counts {
		if remedies[plugin] != "" && (n > most || n == most && plugin < best) {
			best, most = plugin, n
		}
	}
	if most == 0 {
		return ""
	}
	return fmt.Sprintf(" What would help on %d of %d nodes: %s.", most, d.Nodes, remedies[best])
}
