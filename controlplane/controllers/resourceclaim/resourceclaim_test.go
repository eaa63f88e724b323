// SPDX-License-Identifier: Apache-2.0

package resourceclaim_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/resourceclaim"
)

var ctx = context.Background()

func pod(name, node string, claims ...corev1.PodResourceClaim) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, ResourceClaims: claims, Containers: []corev1.Container{{Name: "c"}}}}
}

func fromTemplate(entry, template string) corev1.PodResourceClaim {
	return corev1.PodResourceClaim{Name: entry, ResourceClaimTemplateName: &template}
}

func template(name string) *resourcev1.ResourceClaimTemplate {
	return &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: resourcev1.ResourceClaimTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"kind": "gpu"}},
		Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "one"}}}},
	}}
}

type world struct{ *controllertest.World }

func start(t *testing.T, objs ...runtime.Object) world {
	return world{controllertest.NewWorld(t, objs, resourceclaim.New)}
}

func (w world) claims() []resourcev1.ResourceClaim {
	return controllertest.Must(w.Client.ResourceV1().ResourceClaims("ns").List(ctx, metav1.ListOptions{})).Items
}

func (w world) finish(name string) {
	p := controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, name, metav1.GetOptions{}))
	p.Status.Phase = corev1.PodSucceeded
	controllertest.Must(w.Client.CoreV1().Pods("ns").UpdateStatus(ctx, p, metav1.UpdateOptions{}))
	w.Wait()
}

// reserve allocates a claim and reserves it for pods, as the scheduler does.
func (w world) reserve(claim string, pods ...string) {
	c := controllertest.Must(w.Client.ResourceV1().ResourceClaims("ns").Get(ctx, claim, metav1.GetOptions{}))
	c.Finalizers = []string{resourcev1.Finalizer}
	controllertest.Must(w.Client.ResourceV1().ResourceClaims("ns").Update(ctx, c, metav1.UpdateOptions{}))
	w.Wait()
	if c = controllertest.Must(w.Client.ResourceV1().ResourceClaims("ns").Get(ctx, claim, metav1.GetOptions{})); len(c.Finalizers) != 1 {
		w.T.Error("the finalizer that the scheduler sets before it allocates was taken off")
	}
	c.Status.Allocation = &resourcev1.AllocationResult{}
	for _, name := range pods {
		uid := types.UID("somebody else's")
		if p, err := w.Client.CoreV1().Pods("ns").Get(ctx, name, metav1.GetOptions{}); err == nil {
			uid = p.UID
		}
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: name, UID: uid})
	}
	controllertest.Must(w.Client.ResourceV1().ResourceClaims("ns").UpdateStatus(ctx, c, metav1.UpdateOptions{}))
	w.Wait()
}

func TestAClaimForEveryTemplateOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, template("gpu"), pod("p", "", fromTemplate("a", "gpu"), fromTemplate("b", "gpu"), corev1.PodResourceClaim{Name: "own", ResourceClaimName: ptr.To("mine")}))
		defer w.Close()
		w.After(time.Minute)
		all := w.claims()
		if len(all) != 2 {
			t.Fatalf("%d claims, want 2", len(all))
		}
		names := map[string]string{}
		for _, c := range all {
			names[c.Annotations[resourcev1.PodResourceClaimAnnotation]] = c.Name
			if ref := metav1.GetControllerOf(&c); ref == nil || ref.Name != "p" || c.Labels["kind"] != "gpu" || len(c.Spec.Devices.Requests) != 1 || !strings.HasPrefix(c.Name, "p-") {
				t.Errorf("claim %+v", c)
			}
		}
		p := w.Pods()[0]
		if len(p.Status.ResourceClaimStatuses) != 2 {
			t.Fatalf("the pod is told of %v", p.Status.ResourceClaimStatuses)
		}
		for _, s := range p.Status.ResourceClaimStatuses {
			if names[s.Name] != *s.ResourceClaimName {
				t.Errorf("the pod is told %s for %s, which is %s", *s.ResourceClaimName, s.Name, names[s.Name])
			}
		}
	})
}

// TestAClaimIsNotMadeTwiceWhateverTheCrash: its devices would be taken twice.
func TestAClaimIsNotMadeTwiceWhateverTheCrash(t *testing.T) {
	for n := range 3 {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, template("gpu"))
			defer w.Close()
			w.P.CrashAfter(n)
			controllertest.Must(w.Client.CoreV1().Pods("ns").Create(ctx, pod("p", "", fromTemplate("a", "gpu")), metav1.CreateOptions{}))
			w.Wait()
			w.Restart()
			w.After(time.Minute)
			if all, told := w.claims(), w.Pods()[0].Status.ResourceClaimStatuses; len(all) != 1 || len(told) != 1 {
				t.Errorf("crashed after %d writes: %d claims, the pod is told of %d; want 1 and 1", n, len(all), len(told))
			}
		})
	}
}

func TestATemplateThatIsMissingIsToldAndHeededWhenItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pod("p", "", fromTemplate("a", "gpu")))
		defer w.Close()
		w.After(10 * time.Minute)
		events := w.P.Events.All()
		if len(events) == 0 || len(events) > 20 || !strings.Contains(events[0], "FailedResourceClaimCreation") || !strings.Contains(events[0], `"gpu" not found`) {
			t.Errorf("%d events, the first %v", len(events), events[:min(1, len(events))])
		}
		controllertest.Must(w.Client.ResourceV1().ResourceClaimTemplates("ns").Create(ctx, template("gpu"), metav1.CreateOptions{}))
		w.After(20 * time.Minute) // the back-off
		if n := len(w.claims()); n != 1 {
			t.Errorf("%d claims after the template came", n)
		}
	})
}

func TestDevicesAreFreeWhenTheLastPodHasEnded(t *testing.T) {
	shared := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "shared"}}
	mine := corev1.PodResourceClaim{Name: "x", ResourceClaimName: ptr.To("shared")}
	synctest.Test(t, func(t *testing.T) {
		w := start(t, shared, pod("a", "n", mine), pod("b", "n", mine))
		defer w.Close()
		w.reserve("shared", "a", "b", "gone")
		reserved := func() (out []string, allocated bool) {
			c := w.claims()[0]
			for _, r := range c.Status.ReservedFor {
				out = append(out, r.Name)
			}
			return out, c.Status.Allocation != nil
		}
		if got, allocated := reserved(); strings.Join(got, " ") != "a b" || !allocated {
			t.Errorf("reserved for %v, allocated %v; a pod that is not there holds nothing", got, allocated)
		}
		w.finish("a")
		if got, allocated := reserved(); strings.Join(got, " ") != "b" || !allocated {
			t.Errorf("reserved for %v, allocated %v after a has finished", got, allocated)
		}
		w.Check(w.Client.CoreV1().Pods("ns").Delete(ctx, "b", metav1.DeleteOptions{}))
		w.Wait()
		if got, _ := reserved(); strings.Join(got, " ") != "b" {
			t.Errorf("reserved for %v while b is stopping", got)
		}
		w.Check(w.Client.CoreV1().Pods("ns").Delete(ctx, "b", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		w.Wait()
		if got, allocated := reserved(); len(got) != 0 || allocated {
			t.Errorf("reserved for %v, allocated %v after both have ended", got, allocated)
		}
	})
}

func TestAGeneratedClaimGoesWithItsFinishedPodAndAUsersClaimStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, template("gpu"), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "mine"}},
			pod("p", "n", fromTemplate("a", "gpu"), corev1.PodResourceClaim{Name: "own", ResourceClaimName: ptr.To("mine")}))
		defer w.Close()
		for _, c := range w.claims() {
			w.reserve(c.Name, "p")
		}
		w.finish("p")
		if all := w.claims(); len(all) != 1 || all[0].Name != "mine" || all[0].Status.Allocation != nil {
			t.Errorf("claims %+v, want the user's alone and free", all)
		}
	})
}

// TestADeletedClaimGoesWhenNobodyUsesItsDevices: once the scheduler's finalizer stayed for ever.
func TestADeletedClaimGoesWhenNobodyUsesItsDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "mine"}}, pod("p", "n", corev1.PodResourceClaim{Name: "own", ResourceClaimName: ptr.To("mine")}))
		defer w.Close()
		w.reserve("mine", "p")
		w.Check(w.Client.ResourceV1().ResourceClaims("ns").Delete(ctx, "mine", metav1.DeleteOptions{}))
		w.After(time.Minute)
		if len(w.claims()) != 1 {
			t.Fatal("the claim went though its pod runs")
		}
		w.Check(w.Client.CoreV1().Pods("ns").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		w.After(time.Second)
		if all := w.claims(); len(all) != 0 {
			t.Errorf("nobody uses the deleted claim and it is still there with %v", all[0].Finalizers)
		}
	})
}

// TestAConsumerThatIsNoPodIsItsOwnersBusiness.
func TestAConsumerThatIsNoPodIsItsOwnersBusiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Status: resourcev1.ResourceClaimStatus{
			Allocation: &resourcev1.AllocationResult{}, ReservedFor: []resourcev1.ResourceClaimConsumerReference{{APIGroup: "example.com", Resource: "workloads", Name: "w", UID: "u"}}}})
		defer w.Close()
		w.After(time.Hour)
		if s := w.claims()[0].Status; len(s.ReservedFor) != 1 || s.Allocation == nil {
			t.Errorf("status %+v", s)
		}
	})
}
