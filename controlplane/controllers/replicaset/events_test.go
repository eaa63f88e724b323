// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWhichUpdatesOfAPodCount: a set of a thousand pods is counted again when one of them changes in what is counted, and not for each report of its kubelet.
func TestWhichUpdatesOfAPodCount(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	ready := func(p *corev1.Pod, status corev1.ConditionStatus, at metav1.Time) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: at}}
	}
	for _, c := range []struct {
		name   string
		change func(p *corev1.Pod)
		want   bool
	}{
		{"bound to a node", func(p *corev1.Pod) { p.Spec.NodeName = "n" }, false},
		{"an address", func(p *corev1.Pod) { p.Status.PodIP = "192.0.2.7" }, false},
		{"another condition", func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue})
		}, false},
		{"an annotation", func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} }, false},
		{"ready", func(p *corev1.Pod) { ready(p, corev1.ConditionTrue, at) }, true},
		{"ready since another time", func(p *corev1.Pod) { ready(p, corev1.ConditionFalse, metav1.NewTime(at.Add(time.Second))) }, true},
		{"no longer known whether ready", func(p *corev1.Pod) { p.Status.Conditions = nil }, true},
		{"ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, true},
		{"another label", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "other"} }, true},
		{"another owner", func(p *corev1.Pod) { p.OwnerReferences = nil }, true},
		{"another pod of the name", func(p *corev1.Pod) { p.UID = "2" }, true},
		{"nothing: the cache repeats what it has", func(p *corev1.Pod) { p.ResourceVersion = "1" }, true},
	} {
		old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1", ResourceVersion: "1", Labels: map[string]string{"app": "web"}, OwnerReferences: []metav1.OwnerReference{{UID: "o"}}}}
		ready(old, corev1.ConditionFalse, at)
		pod := old.DeepCopy()
		pod.ResourceVersion = "2"
		c.change(pod)
		if got := counts(old, pod); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
