// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestResize(t *testing.T) {
	n := Start(t, nil)
	set := func(pod *v1.Pod, cpu, memory string) {
		list := v1.ResourceList{v1.ResourceCPU: quantity(cpu), v1.ResourceMemory: quantity(memory)}
		pod.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: list, Limits: list}
	}
	pod := Pod("resized", "forever")
	set(pod, "100m", "64Mi")
	n.Create(pod)
	pod = n.WaitReady("resized")
	id := pod.Status.ContainerStatuses[0].ContainerID
	resize := func(cpu, memory string) {
		t.Helper()
		current := n.Get("resized")
		set(current, cpu, memory)
		if _, err := n.Client.CoreV1().Pods("default").UpdateResize(t.Context(), "resized", current, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	resize("200m", "128Mi")
	pod = n.Wait("resized", "resized", func(p *v1.Pod) bool {
		r := p.Status.ContainerStatuses[0].Resources
		return r != nil && r.Limits.Cpu().MilliValue() == 200 && r.Limits.Memory().Value() == 128<<20 && ConditionOf(p, v1.PodResizeInProgress) == ""
	})
	if s := pod.Status.ContainerStatuses[0]; s.ContainerID != id || s.RestartCount != 0 || s.AllocatedResources.Cpu().MilliValue() != 200 {
		t.Errorf("status %+v", s)
	}
	resize("100000", "128Mi")
	pod = n.Wait("resized", "refused", func(p *v1.Pod) bool { return ConditionOf(p, v1.PodResizePending) == v1.ConditionTrue })
	if r := pod.Status.ContainerStatuses[0].Resources; r.Limits.Cpu().MilliValue() != 200 {
		t.Errorf("resources %+v", r)
	}
	resize("150m", "96Mi")
	n.Wait("resized", "smaller", func(p *v1.Pod) bool {
		r := p.Status.ContainerStatuses[0].Resources
		return r.Limits.Cpu().MilliValue() == 150 && r.Limits.Memory().Value() == 96<<20 && ConditionOf(p, v1.PodResizePending) == ""
	})
}
