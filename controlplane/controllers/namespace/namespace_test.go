// SPDX-License-Identifier: Apache-2.0

package namespace_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/namespace"
)

var ctx = context.Background()

type world struct {
	*controllertest.World
	discovery *fakediscovery.FakeDiscovery
}

// start runs the controller on a namespace "ns" and objs.
func start(t *testing.T, objs ...runtime.Object) world {
	w := world{discovery: controllertest.Discovery()}
	objs = append(objs, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	})
	w.World = controllertest.NewWorld(t, objs, func(c *controller.Context) controller.Controller {
		c.Discovery = w.discovery
		return namespace.New(c)
	})
	return w
}

func (w world) delete() {
	w.T.Helper()
	w.Check(w.Client.CoreV1().Namespaces().Delete(ctx, "ns", metav1.DeleteOptions{}))
	w.Wait()
}

func (w world) gone() bool {
	_, err := w.Client.CoreV1().Namespaces().Get(ctx, "ns", metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

// condition returns "status message" of a condition of the namespace.
func (w world) condition(kind corev1.NamespaceConditionType) string {
	w.T.Helper()
	ns := controllertest.Must(w.Client.CoreV1().Namespaces().Get(ctx, "ns", metav1.GetOptions{}))
	for _, c := range ns.Status.Conditions {
		if c.Type == kind {
			return string(c.Status) + " " + c.Message
		}
	}
	return "absent"
}

func secret(name string, finalizers ...string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Finalizers: finalizers}}
}

func TestEverythingInADeletedNamespaceGoesAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := secret("s")
		other.Namespace = "other"
		w := start(t, secret("s"), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}, other)
		defer w.Close()
		w.After(time.Minute)
		if w.Writes("delete secrets") != 0 {
			t.Fatal("a living namespace was emptied")
		}
		w.delete()
		if !w.gone() {
			t.Errorf("the namespace is still there: %s", w.condition(corev1.NamespaceContentRemaining))
		}
		for _, ns := range []string{"ns", "other"} {
			left := len(controllertest.Must(w.Client.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})).Items)
			if want := map[string]int{"ns": 0, "other": 1}[ns]; left != want {
				t.Errorf("%d secrets are left in %s, want %d", left, ns, want)
			}
		}
	})
}

// TestPodsStopBeforeWhatTheyUseGoes: as long as a pod is stopping, its secrets are there.
func TestPodsStopBeforeWhatTheyUseGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n"}}
		w := start(t, secret("s"), pod)
		defer w.Close()
		w.delete()
		w.After(20 * time.Second)
		if w.Writes("delete secrets") != 0 {
			t.Error("the secret was deleted while the pod was stopping")
		}
		if c := w.condition(corev1.NamespaceContentRemaining); c != "True Some resources are remaining: pods has 1 resource instances" {
			t.Errorf("ContentRemaining is %q", c)
		}
		w.Check(w.Client.CoreV1().Pods("ns").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		w.Wait()
		if !w.gone() {
			t.Error("the pod has stopped and the namespace is still there: its end did not wake the controller")
		}
	})
}

func TestAFinalizerIsToldAndHoldsTheNamespaceWithoutAHotLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, secret("s", "example.com/hold"))
		defer w.Close()
		w.delete()
		if c := w.condition(corev1.NamespaceFinalizersRemaining); c != "True Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances" {
			t.Errorf("FinalizersRemaining is %q", c)
		}
		w.After(10 * time.Minute)
		if n := w.Writes("delete secrets"); n > 700 {
			t.Errorf("%d deletions in ten minutes, want one a second at most", n)
		}
		if n := w.Writes("update namespaces"); n > 2 {
			t.Errorf("%d status writes that say the same, want 2 at most", n)
		}
		s := controllertest.Must(w.Client.CoreV1().Secrets("ns").Get(ctx, "s", metav1.GetOptions{}))
		s.Finalizers = nil
		controllertest.Must(w.Client.CoreV1().Secrets("ns").Update(ctx, s, metav1.UpdateOptions{}))
		w.After(2 * time.Second)
		if !w.gone() {
			t.Error("the finalizer went and the namespace did not")
		}
	})
}

// TestATypeThatDoesNotAnswerKeepsTheNamespace: an aggregated API that is down may hold objects.
func TestATypeThatDoesNotAnswerKeepsTheNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, secret("s"))
		defer w.Close()
		down := true
		w.discovery.Resources = append(w.discovery.Resources, &metav1.APIResourceList{GroupVersion: "down.example.com/v1", APIResources: []metav1.APIResource{{Name: "things", Namespaced: true}}})
		calls := 0
		w.discovery.AddReactor("get", "resource", func(clienttesting.Action) (bool, runtime.Object, error) {
			calls++
			if down && calls%6 == 0 { // one of the six group versions
				return true, nil, errors.New("the service does not answer")
			}
			return false, nil, nil
		})
		w.delete()
		w.After(30 * time.Second)
		if w.gone() {
			t.Fatal("the namespace went although a type could not be looked at")
		}
		if c := w.condition(corev1.NamespaceDeletionDiscoveryFailure); !strings.HasPrefix(c, "True ") || !strings.Contains(c, "does not answer") {
			t.Errorf("DiscoveryFailure is %q", c)
		}
		if w.Writes("delete secrets") == 0 {
			t.Error("what could be deleted was not")
		}
		down = false
		w.After(time.Minute)
		if !w.gone() {
			t.Error("all types answer again and the namespace is still there")
		}
	})
}

func TestARefusedDeletionIsToldAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, secret("s"))
		defer w.Close()
		refuse := true
		w.Refuse = func(a clienttesting.Action) error {
			if refuse && a.Matches("delete", "secrets") {
				return apierrors.NewInternalError(errors.New("a webhook says no"))
			}
			return nil
		}
		w.Restart()
		w.delete()
		if c := w.condition(corev1.NamespaceDeletionContentFailure); !strings.HasPrefix(c, "True ") || !strings.Contains(c, "secrets") || !strings.Contains(c, "a webhook says no") {
			t.Errorf("ContentFailure is %q", c)
		}
		refuse = false
		w.After(time.Minute)
		if !w.gone() {
			t.Error("nothing refuses any more and the namespace is still there")
		}
	})
}

func TestAForeignFinalizerOfTheNamespaceStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		defer w.Close()
		ns := controllertest.Must(w.Client.CoreV1().Namespaces().Get(ctx, "ns", metav1.GetOptions{}))
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, "example.com/mine")
		controllertest.Must(w.Client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{}))
		w.delete()
		w.After(time.Minute)
		ns = controllertest.Must(w.Client.CoreV1().Namespaces().Get(ctx, "ns", metav1.GetOptions{}))
		if len(ns.Spec.Finalizers) != 1 || ns.Spec.Finalizers[0] != "example.com/mine" {
			t.Errorf("finalizers %v, want only the foreign one", ns.Spec.Finalizers)
		}
	})
}
