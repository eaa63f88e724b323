// SPDX-License-Identifier: Apache-2.0

package disruption_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/disruption"
)

var (
	ctx = context.Background()
	web = map[string]string{"app": "web"}
)

func owner(kind, name, uid string) []metav1.OwnerReference {
	group := map[string]string{"ReplicaSet": "apps/v1", "Deployment": "apps/v1", "Widget": "example.com/v1"}[kind]
	return []metav1.OwnerReference{{APIVersion: group, Kind: kind, Name: name, UID: types.UID(uid), Controller: ptr.To(true)}}
}

// pods are ready pods of the replica set "web", the last unready of them not ready.
func pods(n, unready int) []runtime.Object {
	var out []runtime.Object
	for i := range n {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i), Labels: web, OwnerReferences: owner("ReplicaSet", "web", "uid-00001")},
			Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}}}
		p = controllertest.Running(p, "10.0.0.1", time.Now())
		if i >= n-unready {
			controller.PodCondition(p, corev1.PodReady).Status = corev1.ConditionFalse
		}
		out = append(out, p)
	}
	return out
}

// set is the replica set of pods; it must be the first object of a world, which gives it the UID that pods name.
func set(replicas int32) runtime.Object {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas}}
}

func budget(change func(*policyv1.PodDisruptionBudgetSpec)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}}}
	if change != nil {
		change(&b.Spec)
	}
	return b
}

func minAvailable(text string) func(*policyv1.PodDisruptionBudgetSpec) {
	return func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.Parse(text)) }
}

func maxUnavailable(text string) func(*policyv1.PodDisruptionBudgetSpec) {
	return func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(intstr.Parse(text)) }
}

func start(t *testing.T, objs ...runtime.Object) world {
	return world{controllertest.NewWorld(t, objs, disruption.New)}
}

type world struct{ *controllertest.World }

func (w world) status() *policyv1.PodDisruptionBudgetStatus {
	return &controllertest.Must(w.Client.PolicyV1().PodDisruptionBudgets("ns").Get(ctx, "b", metav1.GetOptions{})).Status
}

// TestHowManyMayGo computes the expected numbers by hand from the documented rules: percentages are of the declared size and round up.
func TestHowManyMayGo(t *testing.T) {
	for _, test := range []struct {
		name                                 string
		size                                 int32 // declared
		pods, unready                        int
		spec                                 func(*policyv1.PodDisruptionBudgetSpec)
		allowed, healthy, desired, expecteds int32
	}{
		{"all but three may go", 5, 5, 0, minAvailable("3"), 2, 5, 3, 5},
		{"a pod that is not ready counts as gone", 5, 5, 1, minAvailable("3"), 1, 4, 3, 5},
		{"fewer are healthy than must be", 5, 5, 3, minAvailable("3"), 0, 2, 3, 5},
		{"half of seven rounds up to four", 7, 7, 0, minAvailable("50%"), 3, 7, 4, 7},
		{"one at a time", 5, 5, 0, maxUnavailable("1"), 1, 5, 4, 5},
		{"a third of ten rounds up to four", 10, 10, 0, maxUnavailable("33%"), 4, 10, 6, 10},
		{"the declared size counts, not the pods that are there", 10, 6, 0, maxUnavailable("2"), 0, 6, 8, 10},
		{"none may go", 3, 3, 0, maxUnavailable("0"), 0, 3, 3, 3},
		{"more than there are may go", 3, 3, 0, maxUnavailable("100"), 3, 3, 0, 3},
		{"no pod matches", 3, 0, 0, minAvailable("1"), 0, 0, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, append(append([]runtime.Object{set(test.size)}, pods(test.pods, test.unready)...), budget(test.spec))...)
				defer w.Close()
				s := w.status()
				if s.DisruptionsAllowed != test.allowed || s.CurrentHealthy != test.healthy || s.DesiredHealthy != test.desired || s.ExpectedPods != test.expecteds {
					t.Errorf("allowed %d, healthy %d, desired %d, expected %d; want %d, %d, %d, %d", s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods,
						test.allowed, test.healthy, test.desired, test.expecteds)
				}
				if is := meta.IsStatusConditionTrue(s.Conditions, policyv1.DisruptionAllowedCondition); is != (test.allowed > 0) {
					t.Errorf("DisruptionAllowed is %v with %d allowed", is, test.allowed)
				}
			})
		})
	}
}

func TestTheDeclaredSizeOfADeploymentIsTheDeployments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := set(4).(*appsv1.ReplicaSet)
		rs.OwnerReferences = owner("Deployment", "web", "d")
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](9)}}
		w := start(t, append(append([]runtime.Object{rs}, pods(4, 0)...), d, budget(maxUnavailable("7")))...)
		defer w.Close()
		if s := w.status(); s.ExpectedPods != 9 || s.DisruptionsAllowed != 2 {
			t.Errorf("expected %d, allowed %d, want 9 and 2", s.ExpectedPods, s.DisruptionsAllowed)
		}
	})
}

// TestAnUnknownSizeIsANo: a controller without a scale makes a percentage meaningless, so nothing may be disrupted, and it says why.
func TestAnUnknownSizeIsANo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := pods(3, 0)
		all[0].(*corev1.Pod).OwnerReferences = owner("Widget", "w", "w")
		w := start(t, append(append([]runtime.Object{set(3)}, all...), budget(maxUnavailable("1")))...)
		defer w.Close()
		w.After(time.Hour)
		s := w.status()
		c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
		if s.DisruptionsAllowed != 0 || c == nil || c.Status != metav1.ConditionFalse || c.Reason != policyv1.SyncFailedReason || !strings.Contains(c.Message, "Widget") {
			t.Errorf("allowed %d, condition %+v", s.DisruptionsAllowed, c)
		}
		if events := w.P.Events.All(); len(events) == 0 || len(events) > 25 || !strings.Contains(events[0], "CalculateExpectedPodCountFailed") {
			t.Errorf("%d events in an hour, the first ones %v", len(events), events[:min(2, len(events))])
		}
	})
}

// TestAnEvictionUnderWayIsCountedUntilThePodGoesOrTwoMinutesPass: the API server notes what it let go.
func TestAnEvictionUnderWayIsCountedUntilThePodGoesOrTwoMinutesPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, append(append([]runtime.Object{set(5)}, pods(5, 0)...), budget(minAvailable("3")))...)
		defer w.Close()
		b := controllertest.Must(w.Client.PolicyV1().PodDisruptionBudgets("ns").Get(ctx, "b", metav1.GetOptions{}))
		b.Status.DisruptionsAllowed, b.Status.DisruptedPods = 1, map[string]metav1.Time{"p0": metav1.Now(), "gone": metav1.Now()}
		controllertest.Must(w.Client.PolicyV1().PodDisruptionBudgets("ns").UpdateStatus(ctx, b, metav1.UpdateOptions{}))
		w.Wait()
		if s := w.status(); s.DisruptionsAllowed != 1 || s.CurrentHealthy != 4 || len(s.DisruptedPods) != 1 {
			t.Errorf("allowed %d, healthy %d, noted %v; want 1, 4, p0", s.DisruptionsAllowed, s.CurrentHealthy, s.DisruptedPods)
		}
		w.After(3 * time.Minute)
		if s := w.status(); s.DisruptionsAllowed != 2 || len(s.DisruptedPods) != 0 {
			t.Errorf("an eviction that never happened: allowed %d, noted %v; want 2 and none", s.DisruptionsAllowed, s.DisruptedPods)
		}
		if events := strings.Join(w.P.Events.All(), "\n"); !strings.Contains(events, "NotDeleted") {
			t.Errorf("no event tells of the eviction that never happened: %s", events)
		}
	})
}

func TestAPodThatChangesItsLabelsLeavesOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, append(append([]runtime.Object{set(3)}, pods(3, 0)...), budget(minAvailable("1")))...)
		defer w.Close()
		p := controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, "p0", metav1.GetOptions{}))
		p.Labels = map[string]string{"app": "other"}
		controllertest.Must(w.Client.CoreV1().Pods("ns").Update(ctx, p, metav1.UpdateOptions{}))
		w.Wait()
		if s := w.status(); s.CurrentHealthy != 2 || s.DisruptionsAllowed != 1 {
			t.Errorf("healthy %d, allowed %d, want 2 and 1", s.CurrentHealthy, s.DisruptionsAllowed)
		}
	})
}

// TestASelectorThatMatchesEverything is legal (policy/v1: an empty selector selects all pods of the namespace) and quiet.
func TestASelectorThatMatchesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, append(append([]runtime.Object{set(4)}, pods(4, 0)...), budget(func(s *policyv1.PodDisruptionBudgetSpec) {
			s.Selector = &metav1.LabelSelector{}
			minAvailable("1")(s)
		}))...)
		defer w.Close()
		w.After(time.Hour)
		if s := w.status(); s.DisruptionsAllowed != 3 {
			t.Errorf("allowed %d, want 3", s.DisruptionsAllowed)
		}
		if n := w.Writes("update poddisruptionbudgets"); n != 1 {
			t.Errorf("%d status writes in an hour in which nothing happened, want 1", n)
		}
	})
}

func TestADisruptionThatDidNotHappenIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pods(1, 0)...)
		defer w.Close()
		p := controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, "p0", metav1.GetOptions{}))
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.Now()})
		controllertest.Must(w.Client.CoreV1().Pods("ns").UpdateStatus(ctx, p, metav1.UpdateOptions{}))
		for _, step := range []struct {
			after time.Duration
			want  corev1.ConditionStatus
		}{{time.Minute, corev1.ConditionTrue}, {2 * time.Minute, corev1.ConditionFalse}} {
			w.After(step.after)
			p = controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, "p0", metav1.GetOptions{}))
			if c := controller.PodCondition(p, corev1.DisruptionTarget); c.Status != step.want {
				t.Errorf("DisruptionTarget is %s after another %v, want %s", c.Status, step.after, step.want)
			}
		}
	})
}
