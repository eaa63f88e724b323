// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func priority(value int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = &value } }

func on1(node string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = node } }

func labelled(key, value string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Labels = map[string]string{key: value} }
}

func TestPreemptionRemovesTheFewestLeastImportantPodsAndSparesBudgets(t *testing.T) {
	protected := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pdb"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}
	w := newWorld(t, Config{}, node("n1", "4"), node("n2", "4"), node("n3", "4"), protected,
		pod("db", "4", priority(1), on1("n1"), labelled("app", "db")),
		pod("worth-more", "4", priority(5), on1("n2")),
		pod("a", "2", priority(1), on1("n3")), pod("b", "2", priority(2), on1("n3")))
	w.create(pod("urgent", "2", priority(100)))
	if p := w.bound("urgent"); p.Spec.NodeName != "n3" {
		t.Errorf("urgent is on %s, want n3", p.Spec.NodeName)
	}
	if _, err := w.client.CoreV1().Pods("default").Get(w.ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a, the least important, is still there: %v", err)
	}
	for _, name := range []string{"b", "db", "worth-more"} {
		w.pod(name)
	}
}

func TestPodsThatNeverPreemptWait(t *testing.T) {
	never := v1.PreemptNever
	w := newWorld(t, Config{}, node("n1", "1"), pod("low", "1", priority(1), on1("n1")))
	w.create(pod("high", "1", priority(100), func(p *v1.Pod) { p.Spec.PreemptionPolicy = &never }))
	want := "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
	if got := w.refused("high"); len(got) < len(want) || got[:len(want)] != want {
		t.Errorf("message is\n  %q, want\n  %q", got, want)
	}
	w.pod("low")
}

func TestWithoutVictimsTheMessageSaysSo(t *testing.T) {
	w := newWorld(t, Config{}, node("n1", "1"), node("n2", "4"), pod("same", "4", on1("n2")))
	w.create(pod("p", "2"))
	want := "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, " +
		"1 Preemption is not helpful for scheduling. What would help on 2 of 2 nodes: lower the requests, remove pods or add nodes."
	if got := w.refused("p"); got != want {
		t.Errorf("message is\n  %q, want\n  %q", got, want)
	}
}

// TestAVictimIsMarkedAsDisruptedBeforeItIsDeleted: a Job's failure policy reads the condition of a pod that may be gone a moment later.
func TestAVictimIsMarkedAsDisruptedBeforeItIsDeleted(t *testing.T) {
	victims := make(chan *v1.Pod, 16) // as they were when they were deleted
	w := newWorldWith(t, Config{}, func(c *fake.Clientset) {
		c.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			name := action.(clienttesting.DeleteAction).GetName()
			obj, err := c.Tracker().Get(v1.SchemeGroupVersion.WithResource("pods"), "default", name)
			if err == nil {
				victims <- obj.(*v1.Pod)
			}
			return true, nil, err // a finalizer keeps it
		})
	}, node("n1", "1"), pod("low", "1", priority(1), on1("n1")))
	w.create(pod("high", "1", priority(100)))
	select {
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was deleted")
	case victim := <-victims:
		found := slices.ContainsFunc(victim.Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
		})
		if victim.Name != "low" || !found {
			t.Errorf("%s was deleted with the conditions %v", victim.Name, victim.Status.Conditions)
		}
	}
}
