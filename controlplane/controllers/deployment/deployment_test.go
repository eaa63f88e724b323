// SPDX-License-Identifier: Apache-2.0

package deployment_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/deployment"
	"github.com/fairlead/fairlead/controlplane/controllers/replicaset"
)

var podsGVR = corev1.SchemeGroupVersion.WithResource("pods")

func newDeployment(replicas int32, surge, unavailable int32) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(unavailable)),
			}},
			ProgressDeadlineSeconds: ptr.To[int32](600), RevisionHistoryLimit: ptr.To[int32](3),
		},
	}
}

// cluster is a Deployment on an API in memory, whose pods the test makes ready by hand.
type cluster struct{ *controllertest.World }

func start(t *testing.T, objs ...runtime.Object) cluster {
	return cluster{controllertest.NewWorld(t, objs, replicaset.New, deployment.New)}
}

func (c cluster) get() *appsv1.Deployment {
	c.T.Helper()
	d, err := c.Client.AppsV1().Deployments("ns").Get(context.Background(), "web", metav1.GetOptions{})
	c.Check(err)
	return d
}

func (c cluster) sets() []appsv1.ReplicaSet {
	c.T.Helper()
	list, err := c.Client.AppsV1().ReplicaSets("ns").List(context.Background(), metav1.ListOptions{})
	c.Check(err)
	return list.Items
}

func (c cluster) change(f func(*appsv1.Deployment)) {
	c.T.Helper()
	d := c.get()
	f(d)
	_, err := c.Client.AppsV1().Deployments("ns").Update(context.Background(), d, metav1.UpdateOptions{})
	c.Check(err)
	c.Wait()
}

func images(pods []*corev1.Pod) map[string]int {
	out := map[string]int{}
	for _, p := range pods {
		if controller.Active(p) {
			out[p.Spec.Containers[0].Image]++
		}
	}
	return out
}

func TestRolloutReplacesEveryPodAndKeepsHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newDeployment(4, 1, 1))
		defer c.Close()
		c.Rest()
		for i := 2; i <= 6; i++ {
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("v%d", i) })
			c.Rest()
		}
		if got := images(c.Pods()); len(got) != 1 || got["v6"] != 4 {
			t.Errorf("pods by image: %v, want 4 of v6", got)
		}
		d := c.get()
		if got := d.Annotations["deployment.kubernetes.io/revision"]; got != "6" {
			t.Errorf("revision %q, want 6", got)
		}
		if d.Generation != 6 {
			t.Errorf("generation %d, want 6: only the test changed the spec", d.Generation)
		}
		if sets := c.sets(); len(sets) != 4 { // the current one and the limit of 3
			t.Errorf("%d replica sets are kept, want 4", len(sets))
		}
		for _, want := range []string{"Progressing=True/NewReplicaSetAvailable", "Available=True/MinimumReplicasAvailable"} {
			if !slices.ContainsFunc(d.Status.Conditions, func(x appsv1.DeploymentCondition) bool {
				return fmt.Sprintf("%s=%s/%s", x.Type, x.Status, x.Reason) == want
			}) {
				t.Errorf("condition %s is missing in %v", want, d.Status.Conditions)
			}
		}
	})
}

func TestRollbackReusesTheOldSetWithANewRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newDeployment(2, 1, 0))
		defer c.Close()
		c.Rest()
		first := c.sets()[0].Name
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
		c.Rest()
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v1" })
		c.Rest()
		for _, rs := range c.sets() {
			if rs.Name != first {
				continue
			}
			if *rs.Spec.Replicas != 2 || rs.Annotations["deployment.kubernetes.io/revision"] != "3" || rs.Annotations["deployment.kubernetes.io/revision-history"] != "1" {
				t.Errorf("the first set has %d replicas and annotations %v, want 2, revision 3, history 1", *rs.Spec.Replicas, rs.Annotations)
			}
		}
	})
}

func TestRecreateStartsNewPodsOnlyWhenTheLastOldOneHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(3, 0, 0)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		c := start(t, d)
		defer c.Close()
		c.Rest()
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
		for _, pod := range c.Pods() { // all old, all being deleted
			if got := images(c.Pods()); got["v2"] != 0 {
				t.Fatalf("new pods run beside an old one that is still ending: %v", got)
			}
			c.Step(pod)
		}
		c.Rest()
		if got := images(c.Pods()); got["v2"] != 3 {
			t.Errorf("pods by image: %v, want 3 of v2", got)
		}
	})
}

func TestPausedDeploymentScalesButDoesNotRoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newDeployment(2, 1, 0))
		defer c.Close()
		c.Rest()
		c.change(func(d *appsv1.Deployment) {
			d.Spec.Paused, d.Spec.Template.Spec.Containers[0].Image, *d.Spec.Replicas = true, "v2", 5
		})
		c.Rest()
		if got := images(c.Pods()); got["v1"] != 5 || got["v2"] != 0 {
			t.Errorf("while paused: %v, want 5 of v1", got)
		}
		c.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		c.Rest()
		if got := images(c.Pods()); got["v2"] != 5 || got["v1"] != 0 {
			t.Errorf("after the pause: %v, want 5 of v2", got)
		}
	})
}

// The numbers are those of the proportional-scaling example in Kubernetes' documentation of Deployments: 10 replicas, maxSurge 3, maxUnavailable 2; the new
// image does not start, so the old set has 8 and the new one 5; scaled to 15, the old set gets 3 more and the new one 2.
func TestScalingInTheMiddleOfARolloutIsProportional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newDeployment(10, 3, 2))
		defer c.Close()
		c.Rest()
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "broken" })
		for range 40 { // pods that are being deleted end; new ones never get ready
			for _, pod := range c.Pods() {
				if pod.DeletionTimestamp != nil {
					c.Step(pod)
				}
			}
			c.Wait()
		}
		sizes := func() string {
			out := []string{}
			for _, rs := range c.sets() {
				out = append(out, fmt.Sprintf("%s=%d", rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas))
			}
			slices.Sort(out)
			return strings.Join(out, " ")
		}
		if got := sizes(); got != "broken=5 v1=8" {
			t.Fatalf("before the scaling: %s, want broken=5 v1=8", got)
		}
		c.change(func(d *appsv1.Deployment) { *d.Spec.Replicas = 15 })
		if got := sizes(); got != "broken=7 v1=11" {
			t.Errorf("after the scaling: %s, want broken=7 v1=11", got)
		}
	})
}

func TestARolloutThatDoesNotMoveMissesItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(1, 1, 0)
		d.Spec.ProgressDeadlineSeconds = ptr.To[int32](30)
		c := start(t, d)
		defer c.Close()
		c.Wait()
		time.Sleep(25 * time.Second)
		c.Wait()
		reason := func() string {
			for _, x := range c.get().Status.Conditions {
				if x.Type == appsv1.DeploymentProgressing {
					return string(x.Status) + " " + x.Reason
				}
			}
			return ""
		}
		if got := reason(); strings.HasPrefix(got, "False") {
			t.Errorf("after 25 s: %s, the deadline is 30 s", got)
		}
		time.Sleep(10 * time.Second)
		c.Wait()
		if got := reason(); got != "False ProgressDeadlineExceeded" {
			t.Errorf("after 35 s: %q, want False ProgressDeadlineExceeded", got)
		}
	})
}

func TestASetOfTheWantedNameThatIsForeignCountsAsCollision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(1, 1, 0)
		foreign := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-" + controller.Hash(&d.Spec.Template, nil)},
			Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}}}}
		c := start(t, d, foreign)
		defer c.Close()
		c.Rest()
		if got := c.get().Status.CollisionCount; got == nil || *got != 1 {
			t.Errorf("collision count %v, want 1", got)
		}
		if got := images(c.Pods()); got["v1"] != 1 {
			t.Errorf("pods: %v, want one", got)
		}
	})
}

// TestLimitsHoldWhateverHappens changes templates, breaks and heals pods, and crashes the controllers between writes, in random order. After every write no more than
// replicas+maxSurge pods are active, no controller deletes a pod it knows to be available when that leaves fewer than replicas-maxUnavailable, and in the end all pods are new.
func TestLimitsHoldWhateverHappens(t *testing.T) {
	controllertest.Seeds(t, 15, func(t *testing.T, rnd *rand.Rand) { limits(t, rnd, false) })
}

// TestLimitsHoldWhileCachesLag is the same with caches that show events late and in another order than they happened.
func TestLimitsHoldWhileCachesLag(t *testing.T) {
	controllertest.Seeds(t, 25, func(t *testing.T, rnd *rand.Rand) { limits(t, rnd, true) })
}

func limits(t *testing.T, rnd *rand.Rand, lags bool) {
	replicas, surge, unavailable := int32(1+rnd.Intn(8)), int32(rnd.Intn(4)), int32(rnd.Intn(3))
	if surge == 0 && unavailable == 0 {
		surge = 1
	}
	unavailable = min(unavailable, replicas)
	c := start(t, newDeployment(replicas, surge, unavailable))
	defer c.Close()
	c.Rest()
	flakes := rnd.Intn(3) == 0 // deletions of pods fail at times
	byController := true       // who writes: the test ends pods, too
	c.API.Wrote = func(verb string, gvr schema.GroupVersionResource, obj runtime.Object) {
		if gvr != podsGVR {
			return
		}
		active, available := 0, 0
		c.API.List(podsGVR, "Pod", func(o runtime.Object) {
			if pod := o.(*corev1.Pod); controller.Active(pod) {
				active++
				if controller.Ready(pod) {
					available++
				}
			}
		})
		if active > int(replicas+surge) {
			t.Errorf("%d pods are active, %d replicas and a surge of %d allow %d", active, replicas, surge, replicas+surge)
		}
		// A deletion that was refused and is repeated follows a decision that was right when it was taken.
		if pod := obj.(*corev1.Pod); verb == "delete" && byController && !flakes && c.KnownReady(pod) && available < int(replicas-unavailable) {
			t.Errorf("deleting %s leaves %d available, %d replicas and %d unavailable need %d", pod.Name, available, replicas, unavailable, replicas-unavailable)
		}
	}
	deletes, flaky := 0, false
	c.Refuse = func(action clienttesting.Action) error {
		if flaky && action.Matches("delete", "pods") {
			if deletes++; deletes%3 > 0 {
				return apierrors.NewInternalError(errors.New("a webhook does not answer"))
			}
		}
		return nil
	}
	version := 1
	c.Lag(lags)
	for i := range 120 {
		pods := c.Pods()
		switch n := rnd.Intn(20); {
		case n == 0:
			version++
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("v%d", version) })
		case n == 1:
			version = max(1, version-1) // back to an earlier template
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("v%d", version) })
		case n == 2:
			c.P.CrashAfter(rnd.Intn(4))
		case n == 4:
			flaky = flakes && !flaky
		case n == 3 && len(pods) > 0: // a pod fails
			c.Calm() // the limits hold for what the controllers can know
			if pod := c.Pod(pods[rnd.Intn(len(pods))]); pod != nil && controller.Ready(pod) && pod.DeletionTimestamp == nil {
				if _, err := c.Client.CoreV1().Pods("ns").UpdateStatus(context.Background(), controllertest.Ended(pod, corev1.PodFailed, 1, time.Now()), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				c.CatchUp()
			}
		case len(pods) > 0:
			byController = false
			c.Step(pods[rnd.Intn(len(pods))])
			byController = true
		}
		if c.Pass(rnd, rnd.Intn(12)); i%20 == 0 {
			c.CatchUp()
		}
		c.Wait()
		if c.P.Crashed() {
			c.Restart()
		}
	}
	flaky = false
	if c.P.CrashAfter(-1); c.P.Crashed() {
		c.Restart()
	}
	c.Lag(false)
	for range 5 { // what was refused comes back after its back-off
		c.Rest()
		time.Sleep(20 * time.Minute)
	}
	if got := images(c.Pods()); got[fmt.Sprintf("v%d", version)] != int(replicas) || len(got) != 1 {
		t.Errorf("in the end: %v, want %d of v%d", got, replicas, version)
	}
	if !complete(c.get()) {
		t.Errorf("in the end the status is %+v", c.get().Status)
	}
}

func complete(d *appsv1.Deployment) bool {
	s := d.Status
	return s.UpdatedReplicas == *d.Spec.Replicas && s.Replicas == *d.Spec.Replicas && s.AvailableReplicas == *d.Spec.Replicas && s.ObservedGeneration == d.Generation
}

func TestAnotherChangeInTheMiddleOfARolloutLeadsToTheLastTemplate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newDeployment(4, 1, 1))
		defer c.Close()
		c.Rest()
		for _, image := range []string{"v2", "v3", "v4"} {
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
			if images(c.Pods())[image] == 0 {
				t.Fatalf("no pod of %s was made before the next change: %v", image, images(c.Pods()))
			}
		}
		c.Rest()
		if got := images(c.Pods()); len(got) != 1 || got["v4"] != 4 {
			t.Errorf("pods by image: %v, want 4 of v4", got)
		}
		if d := c.get(); d.Annotations["deployment.kubernetes.io/revision"] != "4" || d.Status.UpdatedReplicas != 4 || d.Status.Replicas != 4 {
			t.Errorf("revision %s, status %+v", d.Annotations["deployment.kubernetes.io/revision"], d.Status)
		}
	})
}
