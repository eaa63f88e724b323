// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestSchedulingBehaviours tries entries of sig-scheduling in Kubernetes' conformance list, and those of sig-node about taints.
func TestSchedulingBehaviours(t *testing.T) {
	runBehaviours(t, "sched", []behaviour{
		{"a LimitRange gives defaults, is changed, and refuses", limitRange},
		{"pods that ask for too much, or for a node that is not there, wait and say why", tooMuch},
		{"a pod of higher priority takes the place of a lower one, which is told", preemption},
		{"a critical pod takes the place of another", criticalPreemption},
		{"priorities of four ReplicaSets", preemptionPath},
		{"a PriorityClass's value stays, its description may change", priorityClasses},
	})
	// What a taint of a node does to its pods would do it to everybody's beside it.
	runBehaviours(t, "taints", []behaviour{{"a taint drives pods out when their time is over, and no others", taintEvictions}})
}

func limitRange(b trial) {
	b.create(`
apiVersion: v1
kind: LimitRange
metadata: {name: l, labels: {a: b}}
spec:
  limits:
  - type: Container
    min: {cpu: 50m, memory: 10Mi}
    max: {cpu: 500m, memory: 500Mi}
    default: {cpu: 500m, memory: 500Mi}
    defaultRequest: {cpu: 100m, memory: 200Mi}`)
	pod := func(name, resources string) error {
		return b.try(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {nodeSelector: {no: such}, containers: [{name: app, image: IMAGE, resources: ` + resources + `}]}}`)
	}
	given := func(name, want string) {
		b.Helper()
		p, err := env.client.CoreV1().Pods(b.ns).Get(b.Context(), name, metav1.GetOptions{})
		b.must(err)
		r := p.Spec.Containers[0].Resources
		if got := fmt.Sprint(r.Requests.Cpu(), " ", r.Requests.Memory(), " ", r.Limits.Cpu(), " ", r.Limits.Memory()); got != want {
			b.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	b.eventually(func() error { // the plugin sees the new LimitRange a little later
		if err := pod("small", `{requests: {cpu: 10m, memory: 5Mi}}`); !apierrors.IsForbidden(err) {
			return fmt.Errorf("below the minimum: %v", err)
		}
		return nil
	})
	b.must(pod("none", `{}`))
	given("none", "100m 200Mi 500m 500Mi")
	b.must(pod("partial", `{requests: {cpu: 150m}, limits: {memory: 300Mi}}`))
	given("partial", "150m 300Mi 500m 300Mi")
	if err := pod("large", `{limits: {cpu: 600m}}`); !apierrors.IsForbidden(err) {
		b.Errorf("above the maximum: %v", err)
	}
	ranges := env.client.CoreV1().LimitRanges(b.ns)
	l, err := ranges.Get(b.Context(), "l", metav1.GetOptions{})
	b.must(err)
	l.Spec.Limits[0].Min = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9m"), corev1.ResourceMemory: resource.MustParse("1Mi")}
	_, err = ranges.Update(b.Context(), l, metav1.UpdateOptions{})
	b.must(err)
	b.eventually(func() error { return pod("small", `{requests: {cpu: 10m, memory: 5Mi}}`) })
	b.must(ranges.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}))
	b.eventually(func() error { return pod("free", `{limits: {cpu: 600m}}`) })
}

// unschedulable waits until the scheduler has said why it does not bind the pod.
func (b trial) unschedulable(name, why string) {
	b.Helper()
	b.until(name, "unschedulable: "+why, func(pod *corev1.Pod) bool {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable && strings.Contains(c.Message, why) {
				return true
			}
		}
		return false
	})
}

func tooMuch(b trial) {
	b.create(`
{apiVersion: v1, kind: Pod, metadata: {name: greedy}, spec: {containers: [{name: app, image: IMAGE, resources: {requests: {cpu: "100000"}}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: picky}, spec: {terminationGracePeriodSeconds: 0, nodeSelector: {e2e: NS}, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}`)
	b.unschedulable("greedy", "Insufficient cpu")
	b.unschedulable("picky", "didn't match Pod's node affinity/selector")
	b.wantEvent("greedy", "Warning FailedScheduling")
	label := func(ctx context.Context, value string) {
		_, err := env.client.CoreV1().Nodes().Patch(ctx, "agent-2", types.MergePatchType, []byte(`{"metadata":{"labels":{"e2e":`+value+`}}}`), metav1.PatchOptions{})
		b.must(err)
	}
	b.Cleanup(func() { label(context.Background(), "null") })
	label(b.Context(), `"`+b.ns+`"`)
	if pod := b.untilReady("picky"); pod.Spec.NodeName != "agent-2" {
		b.Errorf("on %s", pod.Spec.NodeName)
	}
}

// offer gives a node a resource that nobody else knows, which the node keeps.
func (b trial) offer(node string, count int) (name string) {
	b.Helper()
	name = "example.com/" + b.ns
	patch := func(ctx context.Context, value string) {
		b.Helper()
		_, err := env.client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(`{"status":{"capacity":{"`+name+`":`+value+`},"allocatable":{"`+name+`":`+value+`}}}`), metav1.PatchOptions{}, "status")
		b.must(err)
	}
	patch(b.Context(), fmt.Sprintf("%q", fmt.Sprint(count)))
	b.Cleanup(func() { patch(context.Background(), "null") })
	return name
}

// classes makes priority classes, from the lowest.
func (b trial) classes(values ...int) {
	b.Helper()
	for i, value := range values {
		name := fmt.Sprintf("%s-%d", b.ns, i+1)
		b.create(fmt.Sprintf("{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: %s}, value: %d}", name, value))
		b.Cleanup(func() { kubectl(b.T, "delete", "priorityclass", name, "--ignore-not-found") })
	}
}

func preemption(b trial) {
	b.classes(1, 1000)
	name := b.offer("agent-1", 1)
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: low, finalizers: [example.com/hold]}, spec: {priorityClassName: NS-1, terminationGracePeriodSeconds: 1,
containers: [{name: app, image: IMAGE, command: [/testapp, forever], resources: {requests: {` + name + `: 1}, limits: {` + name + `: 1}}}]}}`)
	b.untilReady("low")
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: high}, spec: {priorityClassName: NS-2, terminationGracePeriodSeconds: 1,
containers: [{name: app, image: IMAGE, command: [/testapp, forever], resources: {requests: {` + name + `: 1}, limits: {` + name + `: 1}}}]}}`)
	b.until("low", "preempted", func(pod *corev1.Pod) bool {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler {
				return pod.DeletionTimestamp != nil
			}
		}
		return false
	})
	_, err := env.client.CoreV1().Pods(b.ns).Patch(b.Context(), "low", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	b.must(err)
	if pod := b.untilReady("high"); pod.Spec.NodeName != "agent-1" {
		b.Errorf("on %s", pod.Spec.NodeName)
	}
}

func criticalPreemption(b trial) {
	b.classes(1)
	name := b.offer("agent-2", 1)
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: low}, spec: {priorityClassName: NS-1, terminationGracePeriodSeconds: 1,
containers: [{name: app, image: IMAGE, command: [/testapp, forever], resources: {requests: {` + name + `: 1}, limits: {` + name + `: 1}}}]}}`)
	b.untilReady("low")
	critical := fmt.Sprintf("critical-%s", b.ns)
	pods := env.client.CoreV1().Pods("kube-system")
	one := corev1.ResourceList{corev1.ResourceName(name): resource.MustParse("1")}
	zero := int64(0)
	_, err := pods.Create(b.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: critical}, Spec: corev1.PodSpec{
		PriorityClassName: "system-cluster-critical", TerminationGracePeriodSeconds: &zero,
		Containers: []corev1.Container{{Name: "app", Image: shellImage, Command: []string{"/testapp", "forever"}, Resources: corev1.ResourceRequirements{Requests: one, Limits: one}}}}}, metav1.CreateOptions{})
	b.must(err)
	b.Cleanup(func() { b.must(pods.Delete(context.Background(), critical, metav1.DeleteOptions{})) })
	b.untilGone("low")
	b.eventually(func() error {
		pod, err := pods.Get(b.Context(), critical, metav1.GetOptions{})
		if err != nil || pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("the critical pod: %v %v", pod.Status, err)
		}
		return nil
	})
}

func preemptionPath(b trial) {
	b.classes(1, 2, 3, 4)
	name := b.offer("agent-1", 10)
	set := func(class, replicas, each int) {
		b.create(fmt.Sprintf(`{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: rs%d}, spec: {replicas: %d, selector: {matchLabels: {rs: "%d"}}, template: {metadata: {labels: {rs: "%d"}},
spec: {priorityClassName: NS-%d, terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever], resources: {requests: {%s: %d}, limits: {%s: %d}}}]}}}}`,
			class, replicas, class, class, class, name, each, name, each))
	}
	ready := func(class, want int32) {
		b.Helper()
		b.eventually(func() error {
			rs, err := env.client.AppsV1().ReplicaSets(b.ns).Get(b.Context(), fmt.Sprintf("rs%d", class), metav1.GetOptions{})
			if err != nil || rs.Status.ReadyReplicas != want {
				return fmt.Errorf("rs%d has %d ready pods, want %d: %v", class, rs.Status.ReadyReplicas, want, err)
			}
			return nil
		})
	}
	set(1, 5, 1)
	ready(1, 5)
	set(2, 4, 1)
	ready(2, 4)
	set(3, 1, 1)
	ready(3, 1)
	set(4, 1, 5) // takes the place of the five lowest, and of no more
	ready(4, 1)
	for class, want := range map[int32]int32{1: 0, 2: 4, 3: 1} {
		ready(class, want)
	}
}

func priorityClasses(b trial) {
	b.classes(7)
	api := env.client.SchedulingV1().PriorityClasses()
	name := b.ns + "-1"
	patch := func(text string) error {
		_, err := api.Patch(b.Context(), name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		return err
	}
	b.must(patch(`{"description":"changed"}`))
	for _, text := range []string{`{"value":8}`, `{"preemptionPolicy":"Never"}`} {
		if err := patch(text); !apierrors.IsInvalid(err) {
			b.Errorf("%s: %v", text, err)
		}
	}
	class, err := api.Get(b.Context(), name, metav1.GetOptions{})
	b.must(err)
	class.Value = 9
	if _, err := api.Update(b.Context(), class, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		b.Errorf("another value: %v", err)
	}
	list, err := api.List(b.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) < 3 {
		b.Errorf("%d classes: %v", len(list.Items), err)
	}
}

func taintEvictions(b trial) {
	taint := func(ctx context.Context, on bool) {
		value := "null"
		if on {
			value = `[{"key":"example.com/e2e","value":"x","effect":"NoExecute"}]`
		}
		_, err := env.client.CoreV1().Nodes().Patch(ctx, "agent-2", types.MergePatchType, []byte(`{"spec":{"taints":`+value+`}}`), metav1.PatchOptions{})
		b.must(err)
	}
	b.Cleanup(func() { taint(context.Background(), false) })
	for name, toleration := range map[string]string{
		"none": "", "short": ", tolerationSeconds: 2", "long": ", tolerationSeconds: 600", "ever": " ",
	} {
		tolerations := ""
		if toleration != "" {
			tolerations = "{key: example.com/e2e, operator: Equal, value: x, effect: NoExecute" + strings.TrimSpace(toleration) + "}"
		}
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {nodeName: agent-2, terminationGracePeriodSeconds: 0, tolerations: [` + tolerations + `], containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}`)
	}
	for _, name := range []string{"none", "short", "long", "ever"} {
		b.untilReady(name)
	}
	began := time.Now()
	taint(b.Context(), true)
	b.untilGone("none")
	b.untilGone("short")
	if took := time.Since(began); took < 2*time.Second {
		b.Errorf("a pod that tolerates the taint for 2 s was gone after %s", took)
	}
	for _, name := range []string{"long", "ever"} {
		pod, err := env.client.CoreV1().Pods(b.ns).Get(b.Context(), name, metav1.GetOptions{})
		if err != nil || pod.DeletionTimestamp != nil {
			b.Errorf("%s was driven out: %v", name, err)
		}
	}
}
