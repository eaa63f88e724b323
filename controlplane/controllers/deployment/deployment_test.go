// SPDX-License-Identifier: Apache-2.0

package deployment_test

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
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
type cluster struct {
	t      *testing.T
	api    *controllertest.API
	client kubernetes.Interface
	p      *controllertest.Process
}

func start(t *testing.T, d *appsv1.Deployment) *cluster {
	c := &cluster{t: t, api: controllertest.NewAPI(t, d)}
	c.client = c.api.Client(nil)
	c.restart()
	return c
}

func (c *cluster) restart() {
	if c.p != nil {
		c.p.Stop()
	}
	c.p = controllertest.Start(c.t, c.api, replicaset.New, deployment.New)
}

func (c *cluster) pods() []*corev1.Pod {
	list, err := c.client.CoreV1().Pods("ns").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []*corev1.Pod
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out
}

func (c *cluster) get() *appsv1.Deployment {
	d, err := c.client.AppsV1().Deployments("ns").Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *cluster) sets() []appsv1.ReplicaSet {
	list, err := c.client.AppsV1().ReplicaSets("ns").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

func (c *cluster) change(f func(*appsv1.Deployment)) {
	d := c.get()
	f(d)
	if _, err := c.client.AppsV1().Deployments("ns").Update(context.Background(), d, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

// settle lets the controllers work until they wait for the world.
func (c *cluster) settle() {
	synctest.Wait()
	time.Sleep(200 * time.Millisecond)
	synctest.Wait()
}

// step does to one pod what its kubelet would do next, and reports whether there was anything to do.
func (c *cluster) step(pod *corev1.Pod) bool {
	ctx := context.Background()
	switch {
	case pod.DeletionTimestamp != nil:
		if err := c.client.CoreV1().Pods("ns").Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			c.t.Fatal(err)
		}
	case pod.Spec.NodeName == "":
		if err := c.client.CoreV1().Pods("ns").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: pod.Name}, Target: corev1.ObjectReference{Name: "n"}}, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	case !controller.Ready(pod) && pod.Status.Phase != corev1.PodFailed:
		if _, err := c.client.CoreV1().Pods("ns").UpdateStatus(ctx, controllertest.Running(pod, "10.0.0.1", time.Now()), metav1.UpdateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	default:
		return false
	}
	c.settle()
	return true
}

// finish plays all kubelets until nothing moves.
func (c *cluster) finish() {
	for range 500 {
		moved := false
		for _, pod := range c.pods() {
			moved = c.step(pod) || moved
		}
		if c.settle(); !moved {
			return
		}
	}
	c.t.Fatal("the cluster does not come to rest")
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
		defer func() { c.p.Stop() }()
		c.finish()
		for i := 2; i <= 6; i++ {
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("v%d", i) })
			c.finish()
		}
		if got := images(c.pods()); len(got) != 1 || got["v6"] != 4 {
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
		defer func() { c.p.Stop() }()
		c.finish()
		first := c.sets()[0].Name
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
		c.finish()
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v1" })
		c.finish()
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
		defer func() { c.p.Stop() }()
		c.finish()
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
		for _, pod := range c.pods() { // all old, all being deleted
			if got := images(c.pods()); got["v2"] != 0 {
				t.Fatalf("new pods run beside an old one that is still ending: %v", got)
			}
			c.step(pod)
		}
		c.finish()
		if got := images(c.pods()); got["v2"] != 3 {
			t.Errorf("pods by image: %v, want 3 of v2", got)
		}
	})
}

func TestPausedDeploymentScalesButDoesNotRoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newDeployment(2, 1, 0))
		defer func() { c.p.Stop() }()
		c.finish()
		c.change(func(d *appsv1.Deployment) {
			d.Spec.Paused, d.Spec.Template.Spec.Containers[0].Image, *d.Spec.Replicas = true, "v2", 5
		})
		c.finish()
		if got := images(c.pods()); got["v1"] != 5 || got["v2"] != 0 {
			t.Errorf("while paused: %v, want 5 of v1", got)
		}
		c.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		c.finish()
		if got := images(c.pods()); got["v2"] != 5 || got["v1"] != 0 {
			t.Errorf("after the pause: %v, want 5 of v2", got)
		}
	})
}

// The numbers are those of the proportional-scaling example in Kubernetes' documentation of Deployments: 10 replicas, maxSurge 3, maxUnavailable 2; the new
// image does not start, so the old set has 8 and the new one 5; scaled to 15, the old set gets 3 more and the new one 2.
func TestScalingInTheMiddleOfARolloutIsProportional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newDeployment(10, 3, 2))
		defer func() { c.p.Stop() }()
		c.finish()
		c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "broken" })
		for range 40 { // pods that are being deleted end; new ones never get ready
			for _, pod := range c.pods() {
				if pod.DeletionTimestamp != nil {
					c.step(pod)
				}
			}
			c.settle()
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
		defer func() { c.p.Stop() }()
		c.settle()
		time.Sleep(25 * time.Second)
		c.settle()
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
		c.settle()
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
		c := &cluster{t: t, api: controllertest.NewAPI(t, d, foreign)}
		c.client = c.api.Client(nil)
		c.restart()
		defer func() { c.p.Stop() }()
		c.finish()
		if got := c.get().Status.CollisionCount; got == nil || *got != 1 {
			t.Errorf("collision count %v, want 1", got)
		}
		if got := images(c.pods()); got["v1"] != 1 {
			t.Errorf("pods: %v, want one", got)
		}
	})
}

// TestLimitsHoldWhateverHappens changes templates, breaks and heals pods, and crashes the controllers between writes, in random order. After every write no more than
// replicas+maxSurge pods are active, no controller deletes an available pod when that leaves fewer than replicas-maxUnavailable, and in the end all pods are new.
func TestLimitsHoldWhateverHappens(t *testing.T) {
	for seed := range int64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { limits(t, rand.New(rand.NewSource(seed))) })
		})
	}
}

func limits(t *testing.T, rnd *rand.Rand) {
	replicas, surge, unavailable := int32(1+rnd.Intn(8)), int32(rnd.Intn(4)), int32(rnd.Intn(3))
	if surge == 0 && unavailable == 0 {
		surge = 1
	}
	unavailable = min(unavailable, replicas)
	c := start(t, newDeployment(replicas, surge, unavailable))
	defer func() { c.p.Stop() }()
	c.finish()
	byController := true // who writes: the test ends pods, too
	c.api.Wrote = func(verb string, gvr schema.GroupVersionResource, obj runtime.Object) {
		if gvr != podsGVR {
			return
		}
		active, available := 0, 0
		c.api.List(podsGVR, "Pod", func(o runtime.Object) {
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
		if pod := obj.(*corev1.Pod); verb == "delete" && byController && controller.Ready(pod) && available < int(replicas-unavailable) {
			t.Errorf("deleting %s leaves %d available, %d replicas and %d unavailable need %d", pod.Name, available, replicas, unavailable, replicas-unavailable)
		}
	}
	version := 1
	for range 120 {
		pods := c.pods()
		switch n := rnd.Intn(20); {
		case n == 0:
			version++
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("v%d", version) })
		case n == 1:
			version = max(1, version-1) // back to an earlier template
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("v%d", version) })
		case n == 2:
			c.p.CrashAfter(rnd.Intn(4))
		case n == 3 && len(pods) > 0: // a pod fails
			pod := pods[rnd.Intn(len(pods))]
			if controller.Ready(pod) && pod.DeletionTimestamp == nil {
				if _, err := c.client.CoreV1().Pods("ns").UpdateStatus(context.Background(), controllertest.Ended(pod, corev1.PodFailed, 1, time.Now()), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		case len(pods) > 0:
			byController = false
			c.step(pods[rnd.Intn(len(pods))])
			byController = true
		}
		c.settle()
		if c.p.Crashed() {
			c.restart()
		}
	}
	if c.p.CrashAfter(-1); c.p.Crashed() {
		c.restart()
	}
	c.finish()
	if got := images(c.pods()); got[fmt.Sprintf("v%d", version)] != int(replicas) || len(got) != 1 {
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
