// SPDX-License-Identifier: Apache-2.0

package placement

import (
	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// filterUnschedulable refuses a cordoned node, unless the pod tolerates the taint that cordoning brings.
func filterUnschedulable(e *Evaluator, c *Needs, n *cluster.Node) Reason {
	if !n.Object.Spec.Unschedulable {
		return fits
	}
	taint := v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}
	if corev1helpers.TolerationsTolerateTaint(klog.Logger{}, c.Sample.Spec.Tolerations, &taint, true) {
		return fits
	}
	return e.reasons.intern(NodeUnschedulable, true, "node(s) were unschedulable")
}
