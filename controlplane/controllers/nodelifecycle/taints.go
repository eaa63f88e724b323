// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// byCondition are the taints that keep new pods away from a node while a condition holds.
var byCondition = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// ours are the taint keys that this controller sets and removes, of both effects.
var ours = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable,
}

// taint writes the taints that node should have. When the zone's pace does not allow a NoExecute taint yet, it says how long to wait.
func (l *loop) taint(ctx context.Context, node *corev1.Node, state nodeState) (wait time.Duration, err error) {
	want := map[[2]string]bool{}
	noSchedule, noExecute := string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectNoExecute)
	for _, t := range byCondition {
		if c := condition(node, t.condition); c != nil && c.Status == t.status {
			want[[2]string{t.taint, noSchedule}] = true
		}
	}
	if node.Spec.Unschedulable {
		want[[2]string{corev1.TaintNodeUnschedulable, noSchedule}] = true
	}
	evict := map[nodeState]string{notReady: corev1.TaintNodeNotReady, unknown: corev1.TaintNodeUnreachable}[state]
	if evict != "" {
		tainted := slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
			return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
		})
		if !tainted { // from one kind of outage to the other needs no permission: its pods are leaving already
			wait = l.mayEvict(node)
		}
		if wait == 0 {
			want[[2]string{evict, noExecute}] = true
		}
	}
	now := metav1.NewTime(l.c.Clock.Now())
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		id := [2]string{t.Key, string(t.Effect)}
		if !slices.Contains(ours, t.Key) || t.Effect == corev1.TaintEffectPreferNoSchedule || want[id] {
			taints = append(taints, t)
			delete(want, id)
		}
	}
	added := make([]corev1.Taint, 0, len(want))
	for id := range want {
		added = append(added, corev1.Taint{Key: id[0], Effect: corev1.TaintEffect(id[1]), TimeAdded: &now})
	}
	slices.SortFunc(added, func(a, b corev1.Taint) int {
		return slices.Compare([]string{a.Key, string(a.Effect)}, []string{b.Key, string(b.Effect)})
	})
	taints = append(taints, added...)
	if equality.Semantic.DeepEqual(taints, node.Spec.Taints) || len(taints) == 0 && len(node.Spec.Taints) == 0 {
		return wait, nil
	}
	// The whole list is replaced, so the version guards what others wrote to it meanwhile.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion}, "spec": map[string]any{"taints": taints},
	})
	if err != nil {
		return wait, err
	}
	_, err = l.c.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return wait, err
}
