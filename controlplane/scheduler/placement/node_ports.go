// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// filterPorts refuses a node where a pod has one of the host ports already.
func filterPorts(e *Evaluator, c *Needs, n *cluster.Node) Reason {
	if len(c.shape.Ports) == 0 {
		return fits
	}
	taken := conflict(c.shape.Ports, n.Ports)
	for _, p := range n.Nominated {
		taken = taken || p.Priority >= c.Priority && conflict(c.shape.Ports, p.Shape().Ports)
	}
	if taken {
		return e.portsTaken()
	}
	return fits
}

func (e *Evaluator) portsTaken() Reason {
	return e.reasons.intern(NodePorts, false, "node(s) didn't have free ports for the requested pod ports")
}

func conflict(wanted, taken []cluster.HostPort) bool {
	for _, t := range taken {
		for _, w := range wanted {
			if w.Conflicts(t) {
				return true
			}
		}
	}
	return false
}
