// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"math"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// scoreBalance prefers nodes where the shares in use of the resources would be close to each other: 100 minus their standard deviation in percent.
func scoreBalance(e *Evaluator, c *Needs, n *cluster.Node) int64 {
	var shares [8]float64
	count := 0
	for _, r := range c.Profile.BalancedResources {
		i := e.State.Resources.Position(r.Name)
		capacity := n.Allocatable.At(i)
		if capacity == 0 || count == len(shares) || i > cluster.PodCount && c.shape.Request.At(i) == 0 {
			continue
		}
		shares[count] = min(1, float64(n.Requested.At(i)+c.shape.Request.At(i))/float64(capacity))
		count++
	}
	if count < 2 {
		return MaxScore
	}
	if count == 2 {
		return int64((1 - math.Abs(shares[0]-shares[1])/2) * MaxScore)
	}
	var mean, variance float64
	for _, s := range shares[:count] {
		mean += s / float64(count)
	}
	for _, s := range shares[:count] {
		variance += (s - mean) * (s - mean) / float64(count)
	}
	return int64((1 - math.Sqrt(variance)) * MaxScore)
}
