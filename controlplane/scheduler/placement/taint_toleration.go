// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// filterTaints refuses a node with a NoSchedule or NoExecute taint that the pod does not tolerate.
func filterTaints(e *Evaluator, c *Needs, n *cluster.Node) Reason {
	if len(n.Object.Spec.Taints) == 0 {
		return fits
	}
	taint, found := untolerated(n, c.Sample.Spec.Tolerations)
	if !found {
		return fits
	}
	return e.reasons.intern(TaintToleration, true, fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value))
}

func untolerated(n *cluster.Node, tolerations []v1.Toleration) (v1.Taint, bool) {
	return corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, n.Object.Spec.Taints, tolerations, func(t *v1.Taint) bool {
		return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
	}, true)
}

// intolerable counts the PreferNoSchedule taints that the pod does not tolerate. The node with the most scores 0, nodes without score 100.
func intolerable(c *Needs, n *cluster.Node) int64 {
	var count int64
	for i := range n.Object.Spec.Taints {
		taint := &n.Object.Spec.Taints[i]
		if taint.Effect == v1.TaintEffectPreferNoSchedule && !corev1helpers.TolerationsTolerateTaint(klog.Logger{}, c.prefersNot, taint, true) {
			count++
		}
	}
	return count
}
