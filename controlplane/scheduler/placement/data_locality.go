// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"strings"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// DataSourcesAnnotation lists what data a pod works on, beyond the images and claims in its spec: "image/NAME" or "claim/NAME" (a claim of the pod's
// namespace), separated by commas.
const DataSourcesAnnotation = "fairlead.io/data-sources"

// scoreData prefers nodes that hold the data the pod declares: the share of its claims that a pod on the node uses already (so the volume is attached
// and its pages are cached) and of its listed images that the node has.
func scoreData(e *Evaluator, c *Needs, n *cluster.Node) int64 {
	sources, here := int64(0), int64(0)
	count := func(present bool) {
		sources++
		if present {
			here++
		}
	}
	for _, claim := range c.claims {
		count(n.Uses(claim))
	}
	for source := range strings.SplitSeq(c.Sample.Annotations[DataSourcesAnnotation], ",") {
		kind, name, _ := strings.Cut(strings.TrimSpace(source), "/")
		switch kind {
		case "claim":
			count(n.Uses(c.namespace + "/" + name))
		case "image":
			count(hasImage(n.Object, normalizeImage(name)))
		}
	}
	if sources == 0 {
		return 0
	}
	return here * MaxScore / sources
}
