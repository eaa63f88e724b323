// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// world is a fake API server with a scheduler running against it.
type world struct {
	t      *testing.T
	client *fake.Clientset
	ctx    context.Context

	mu       sync.Mutex
	failBind int // how many bindings will fail from now on
}

// newWorld starts a fake API server that carries out bindings, and a scheduler.
func newWorld(t *testing.T, cfg Config, objects ...runtime.Object) *world {
	t.Helper()
	return newWorldWith(t, cfg, func(*fake.Clientset) {}, objects...)
}

func newWorldWith(t *testing.T, cfg Config, setUp func(*fake.Clientset), objects ...runtime.Object) *world {
	t.Helper()
	w := &world{t: t, client: fake.NewClientset(objects...)}
	setUp(w.client)
	w.client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		w.mu.Lock()
		fail := w.failBind > 0
		w.failBind--
		w.mu.Unlock()
		if fail {
			return true, nil, fmt.Errorf("the API server is away")
		}
		binding := action.(clienttesting.CreateAction).GetObject().(*v1.Binding)
		obj, err := w.client.Tracker().Get(v1.SchemeGroupVersion.WithResource("pods"), action.GetNamespace(), binding.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*v1.Pod).DeepCopy()
		if pod.Spec.NodeName != "" {
			return true, nil, fmt.Errorf("pod %s is bound to %s already", pod.Name, pod.Spec.NodeName)
		}
		pod.Spec.NodeName = binding.Target.Name
		return true, binding, w.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), pod, action.GetNamespace())
	})
	ctx, cancel := context.WithCancel(t.Context())
	w.ctx = ctx
	cfg.Client = w.client
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

func (w *world) create(pods ...*v1.Pod) {
	w.t.Helper()
	for _, p := range pods {
		if _, err := w.client.CoreV1().Pods(p.Namespace).Create(w.ctx, p, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) pod(name string) *v1.Pod {
	w.t.Helper()
	p, err := w.client.CoreV1().Pods("default").Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// until waits until cond holds for the pod.
func (w *world) until(name, what string, cond func(*v1.Pod) bool) *v1.Pod {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		if p := w.pod(name); cond(p) {
			return p
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatalf("pod %s: not %s; it is on node %q, conditions %v", name, what, w.pod(name).Spec.NodeName, w.pod(name).Status.Conditions)
	return nil
}

func (w *world) bound(name string) *v1.Pod {
	w.t.Helper()
	return w.until(name, "bound", func(p *v1.Pod) bool { return p.Spec.NodeName != "" })
}

func (w *world) refused(name string) string {
	w.t.Helper()
	p := w.until(name, "refused", func(p *v1.Pod) bool {
		return podScheduled(p) != nil && podScheduled(p).Reason == v1.PodReasonUnschedulable
	})
	return podScheduled(p).Message
}

func node(name, cpu string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("16Gi"), v1.ResourcePods: resource.MustParse("110")}}}
	for _, f := range change {
		f(n)
	}
	return n
}

func pod(name, cpu string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), CreationTimestamp: metav1.Now()},
		Spec: v1.PodSpec{SchedulerName: v1.DefaultSchedulerName, Containers: []v1.Container{{Name: "c", Image: "image",
			Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestPodsAreBoundToNodesThatFit(t *testing.T) {
	w := newWorld(t, Config{}, node("small", "1"), node("large", "4"))
	w.create(pod("big", "3"), pod("other-scheduler", "1", func(p *v1.Pod) { p.Spec.SchedulerName = "mine" }))
	if p := w.bound("big"); p.Spec.NodeName != "large" {
		t.Errorf("big is on %s, want large", p.Spec.NodeName)
	}
	w.create(pod("small-1", "1"), pod("small-2", "1"))
	w.bound("small-1")
	w.bound("small-2")
	if p := w.pod("other-scheduler"); p.Spec.NodeName != "" {
		t.Errorf("a pod of another scheduler was bound to %s", p.Spec.NodeName)
	}
}

func TestAPodThatFitsNowhereIsToldWhyAndWokenByTheRightEvent(t *testing.T) {
	tainted := node("tainted", "8", func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "a", Value: "b", Effect: v1.TaintEffectNoSchedule}} })
	w := newWorld(t, Config{}, node("n1", "1"), node("n2", "1"), tainted)
	w.create(pod("p", "2"))
	if got, want := w.refused("p"), "0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient cpu."; !strings.HasPrefix(got, want) {
		t.Errorf("message is\n  %q, want\n  %q", got, want)
	}
	events, err := w.client.EventsV1().Events("default").List(w.ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_ = events
	if _, err := w.client.CoreV1().Nodes().Create(w.ctx, node("n3", "2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p := w.bound("p"); p.Spec.NodeName != "n3" {
		t.Errorf("p is on %s, want n3", p.Spec.NodeName)
	}
}

func TestGatedPodsWait(t *testing.T) {
	w := newWorld(t, Config{}, node("n1", "4"))
	w.create(pod("gated", "1", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "example.com/wait"}} }), pod("free", "1"))
	w.bound("free")
	p := w.pod("gated")
	if p.Spec.NodeName != "" {
		t.Fatal("the gated pod was bound")
	}
	p.Spec.SchedulingGates = nil
	if _, err := w.client.CoreV1().Pods("default").Update(w.ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.bound("gated")
}

func TestAFailedBindingIsTakenBackAndTriedAgain(t *testing.T) {
	w := newWorld(t, Config{}, node("n1", "1"))
	w.mu.Lock()
	w.failBind = 1
	w.mu.Unlock()
	w.create(pod("p", "1"))
	w.bound("p")
}

func TestExplainShowsEveryNodeWithItsScoresOrItsRefusal(t *testing.T) {
	client := fake.NewClientset(node("empty", "4"), node("half", "4"), node("full", "1"), pod("a", "2", on1("half")), pod("p", "2"))
	x, err := Explain(t.Context(), Config{Client: client}, "default", "p")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := x.Print(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[2], "empty") || !strings.HasPrefix(lines[3], "half") ||
		!strings.Contains(lines[4], "full") || !strings.Contains(lines[4], "Insufficient cpu") {
		t.Errorf("explanation is\n%s", out.String())
	}
}

func TestAMissedStartDeadlineIsAnEventAndThePodIsStillScheduled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, node("n1", "1"))
		w.create(pod("p", "2", func(p *v1.Pod) { p.Annotations = map[string]string{DeadlineAnnotation: "30s"} }))
		synctest.Wait()
		missed := func() bool {
			events, err := w.client.EventsV1().Events("default").List(w.ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events.Items {
				if e.Reason == "StartDeadlineMissed" && strings.Contains(e.Note, "Insufficient cpu") {
					return true
				}
			}
			return false
		}
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if missed() {
			t.Error("the deadline is missed too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !missed() {
			t.Error("no event tells of the missed deadline")
		}
		if _, err := w.client.CoreV1().Nodes().Create(w.ctx, node("n2", "2"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.bound("p")
	})
}
