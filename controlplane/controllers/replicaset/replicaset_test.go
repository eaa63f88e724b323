// SPDX-License-Identifier: Apache-2.0

package replicaset_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/replicaset"
)

var web = map[string]string{"app": "web"}

func newSet(replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
	}
}

func newPod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

type world struct{ *controllertest.World }

func start(t *testing.T, objs ...runtime.Object) world {
	return world{controllertest.NewWorld(t, objs, replicaset.New)}
}

func (w world) get() *appsv1.ReplicaSet {
	w.T.Helper()
	rs, err := w.Client.AppsV1().ReplicaSets("ns").Get(context.Background(), "web", metav1.GetOptions{})
	w.Check(err)
	return rs
}

func (w world) scale(n int32) {
	w.T.Helper()
	rs := w.get()
	rs.Spec.Replicas = &n
	_, err := w.Client.AppsV1().ReplicaSets("ns").Update(context.Background(), rs, metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

func (w world) update(pod *corev1.Pod, f func(*corev1.Pod)) {
	w.T.Helper()
	pod = w.Pod(pod)
	f(pod)
	_, err := w.Client.CoreV1().Pods("ns").Update(context.Background(), pod, metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

func (w world) active() []*corev1.Pod { return controller.Filter(w.Pods(), controller.Active) }

// TestARefusalIsTriedEverMoreRarely: pods that a quota refuses give a condition and an event, not a hot loop, and come when there is room.
func TestARefusalIsTriedEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		defer w.Close()
		var tries atomic.Int32
		w.Refuse = func(a clienttesting.Action) error {
			if a.Matches("create", "pods") {
				tries.Add(1)
				return apierrors.NewForbidden(corev1.Resource("pods"), "", fmt.Errorf("exceeded quota: none"))
			}
			return nil
		}
		_, err := w.Client.AppsV1().ReplicaSets("ns").Create(context.Background(), newSet(50), metav1.CreateOptions{})
		w.Check(err)
		time.Sleep(time.Hour)
		w.Wait()
		// Back-off doubles from 5 ms to 1,000 s: 18 tries take 22 minutes, and two more the rest of the hour.
		if n := tries.Load(); n > 22 || n < 15 {
			t.Errorf("%d tries in an hour, want 15 to 22", n)
		}
		if c := w.get().Status.Conditions; len(c) != 1 || c[0].Type != appsv1.ReplicaSetReplicaFailure || c[0].Reason != "FailedCreate" || !strings.Contains(c[0].Message, "exceeded quota") {
			t.Errorf("conditions %+v, want ReplicaFailure/FailedCreate with the reason", c)
		}
		w.Refuse = nil
		time.Sleep(20 * time.Minute)
		w.Wait()
		if n, c := len(w.active()), w.get().Status.Conditions; n != 50 || len(c) != 0 {
			t.Errorf("with room again: %d pods, conditions %+v, want 50 and none", n, c)
		}
	})
}

// Several refused deletions of one sync once left the set waiting for deletions that never happened.
func TestRefusedDeletionsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(6))
		defer w.Close()
		w.Rest()
		var left atomic.Int32
		left.Store(5)
		w.Refuse = func(a clienttesting.Action) error {
			if a.Matches("delete", "pods") && left.Add(-1) >= 0 {
				return apierrors.NewInternalError(fmt.Errorf("a webhook does not answer"))
			}
			return nil
		}
		w.scale(1)
		time.Sleep(time.Second)
		w.Wait()
		if n := len(w.active()); n != 1 {
			t.Errorf("%d pods are active a second after the refusals, want 1", n)
		}
	})
}

func TestWhatASetAdoptsAndReleases(t *testing.T) {
	foreign := newPod("foreign", web)
	foreign.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Other", Name: "o", UID: "other", Controller: new(bool)}}
	*foreign.OwnerReferences[0].Controller = true
	finished := newPod("finished", web)
	finished.Status.Phase = corev1.PodSucceeded
	for _, test := range []struct {
		name     string
		pod      *corev1.Pod
		selector *metav1.LabelSelector
		adopted  bool
	}{
		{"an orphan that matches is adopted", newPod("orphan", web), nil, true},
		{"an orphan that does not match is left alone", newPod("stranger", map[string]string{"app": "db"}), nil, false},
		{"a pod that another controller has is left alone", foreign, nil, false},
		{"a finished orphan is left alone", finished, nil, false},
		{"a selector that matches everything adopts nothing", newPod("any", web), &metav1.LabelSelector{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rs := newSet(1)
				if test.selector != nil {
					rs.Spec.Selector = test.selector
				}
				w := start(t, test.pod, rs)
				defer w.Close()
				of := func(pod *corev1.Pod) bool { return metav1.IsControlledBy(pod, w.get()) }
				i := slices.IndexFunc(w.Pods(), func(p *corev1.Pod) bool { return p.Name == test.pod.Name })
				if got := of(w.Pods()[i]); got != test.adopted {
					t.Errorf("adopted: %v, want %v", got, test.adopted)
				}
				if mine := controller.Filter(w.Pods(), of); len(mine) != 1 {
					t.Errorf("the set has %d pods, want 1", len(mine))
				}
			})
		})
	}
}

func TestAPodThatNoLongerMatchesIsReleasedAndReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(1))
		defer w.Close()
		w.Rest()
		w.update(w.Pods()[0], func(p *corev1.Pod) { p.Labels = map[string]string{"app": "debug"} })
		pods := w.Pods()
		if len(pods) != 2 || len(pods[0].OwnerReferences) != 0 || !metav1.IsControlledBy(pods[1], w.get()) {
			t.Errorf("pods %v, want the released one without owner and another one of the set's", pods)
		}
	})
}

func TestScaleDownEndsWhatIsMissedLeast(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(w world, pods []*corev1.Pod)
		victim  int
	}{
		{"a pod that is not ready", func(w world, pods []*corev1.Pod) {
			pod := w.Pod(pods[1])
			pod.Status.Conditions = nil
			_, err := w.Client.CoreV1().Pods("ns").UpdateStatus(context.Background(), pod, metav1.UpdateOptions{})
			w.Check(err)
			w.Wait()
		}, 1},
		{"the one whose deletion is declared cheap", func(w world, pods []*corev1.Pod) {
			w.update(pods[2], func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} })
		}, 2},
		{"not the one whose deletion is declared dear", func(w world, pods []*corev1.Pod) {
			w.update(pods[0], func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "5"} })
			w.update(pods[1], func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "7"} })
		}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, newSet(3))
				defer w.Close()
				w.Rest()
				pods := w.Pods()
				test.prepare(w, pods)
				w.scale(2)
				for i, pod := range pods {
					if ended := !controller.Active(w.Pod(pod)); ended != (i == test.victim) {
						t.Errorf("pod %d ended: %v", i, ended)
					}
				}
			})
		})
	}
}

func TestAvailabilityWaitsForMinReadySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rs := newSet(1)
		rs.Spec.MinReadySeconds = 30
		w := start(t, rs)
		defer w.Close()
		w.Rest()
		if s := w.get().Status; s.ReadyReplicas != 1 || s.AvailableReplicas != 0 {
			t.Errorf("at once: %+v, want ready and not available", s)
		}
		time.Sleep(30 * time.Second) // nothing happens: the controller looks again by itself
		w.Wait()
		if s := w.get().Status; s.AvailableReplicas != 1 {
			t.Errorf("after 30 s: %+v, want available", s)
		}
	})
}
