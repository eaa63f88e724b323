// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// scorePressure prefers nodes whose tasks do not wait: 100 minus the worst pressure in percent. Memory pressure counts double, because a node
// that reclaims memory slows down everything on it.
func scorePressure(_ *Evaluator, _ *Needs, n *cluster.Node) int64 {
	return max(0, MaxScore-max(n.Pressure.CPU, 2*n.Pressure.Memory, n.Pressure.IO))
}
