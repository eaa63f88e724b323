// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// filterNodeAffinity refuses a node that the pod's nodeSelector or required affinity, or the profile's, does not match.
func filterNodeAffinity(e *Evaluator, c *Needs, n *cluster.Node) Reason {
	if !c.selective {
		return fits
	}
	if c.added != nil && !c.added.Match(n.Object) {
		return e.reasons.intern(NodeAffinity, true, "node(s) didn't match scheduler-enforced node affinity")
	}
	// A term that does not parse matches no node.
	if ok, _ := c.required.Match(n.Object); !ok {
		return e.reasons.intern(NodeAffinity, true, "node(s) didn't match Pod's node affinity/selector")
	}
	return fits
}

// preference sums the weights of the preferred terms that match the node. The best node scores 100, the others in proportion.
func preference(c *Needs, n *cluster.Node) int64 {
	var sum int64
	for _, p := range c.preferred {
		sum += p.Score(n.Object)
	}
	return sum
}
