// SPDX-License-Identifier: Apache-2.0

package volumeprotection_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/volumeprotection"
)

var ctx = context.Background()

func pod(node string, phase corev1.PodPhase, volume corev1.VolumeSource) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Status: corev1.PodStatus{Phase: phase},
		Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "v", VolumeSource: volume}}}}
}

func claimed(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

func TestWhoHoldsADeletedClaim(t *testing.T) {
	ephemeral := corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{}}}
	for _, test := range []struct {
		name  string
		claim string
		pod   *corev1.Pod
		owned bool // by the pod
		holds bool
	}{
		{"nobody", "c", nil, false, false},
		{"a running pod", "c", pod("n", corev1.PodRunning, claimed("c")), false, true},
		{"a pod that was bound and has not started", "c", pod("n", corev1.PodPending, claimed("c")), false, true},
		{"no pod without a node: the scheduler will refuse it", "c", pod("", corev1.PodPending, claimed("c")), false, false},
		{"no finished pod", "c", pod("n", corev1.PodSucceeded, claimed("c")), false, false},
		{"no pod of another claim", "c", pod("n", corev1.PodRunning, claimed("d")), false, false},
		{"the pod of an ephemeral volume", "p-v", pod("n", corev1.PodRunning, ephemeral), true, true},
		{"no pod whose ephemeral volume only has the same name", "p-v", pod("n", corev1.PodRunning, ephemeral), false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var objs []runtime.Object
				c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: test.claim}}
				if test.pod != nil {
					objs = append(objs, test.pod) // the first object gets this UID:
					if test.owned {
						c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "uid-00001", Controller: ptr.To(true)}}
					}
				}
				w := controllertest.NewWorld(t, append(objs, c), volumeprotection.New)
				defer w.Close()
				api := w.Client.CoreV1().PersistentVolumeClaims("ns")
				if got := controllertest.Must(api.Get(ctx, test.claim, metav1.GetOptions{})); !slices.Equal(got.Finalizers, []string{"kubernetes.io/pvc-protection"}) {
					t.Fatalf("finalizers of the living claim: %v", got.Finalizers)
				}
				w.Check(api.Delete(ctx, test.claim, metav1.DeleteOptions{}))
				w.Wait()
				_, err := api.Get(ctx, test.claim, metav1.GetOptions{})
				if held := err == nil; held != test.holds {
					t.Fatalf("held: %v (%v), want %v", held, err, test.holds)
				}
				if !test.holds {
					return
				}
				p := controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, "p", metav1.GetOptions{}))
				p.Status.Phase = corev1.PodSucceeded
				controllertest.Must(w.Client.CoreV1().Pods("ns").UpdateStatus(ctx, p, metav1.UpdateOptions{}))
				w.Wait()
				if _, err := api.Get(ctx, test.claim, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
					t.Errorf("the pod has finished and the claim is still there (%v)", err)
				}
			})
		})
	}
}

// TestAPodThatTheCacheDoesNotShowYetHoldsTheClaim: the API server is asked before a finalizer goes. Which of two watches comes first is chance: the test
// goes on until it was the claims', with the pod unseen.
func TestAPodThatTheCacheDoesNotShowYetHoldsTheClaim(t *testing.T) {
	unseen := false
	for try := 0; !unseen && try < 50; try++ {
		synctest.Test(t, func(t *testing.T) {
			w := controllertest.NewWorld(t, []runtime.Object{&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}}, volumeprotection.New)
			defer w.Close()
			w.Lag(true)
			w.Check(w.Client.CoreV1().PersistentVolumeClaims("ns").Delete(ctx, "c", metav1.DeleteOptions{}))
			controllertest.Must(w.Client.CoreV1().Pods("ns").Create(ctx, pod("n", corev1.PodRunning, claimed("c")), metav1.CreateOptions{}))
			w.P.Lag.Pass(func(int) int { return try % 2 })
			w.Wait()
			if _, err := w.P.Context.Informers.Core().V1().Pods().Lister().Pods("ns").Get("p"); err == nil {
				return
			}
			unseen = true
			if _, err := w.Client.CoreV1().PersistentVolumeClaims("ns").Get(ctx, "c", metav1.GetOptions{}); err != nil {
				t.Errorf("the claim went under a running pod: %v", err)
			}
		})
	}
	if !unseen {
		t.Error("the cache always showed the pod")
	}
}

func TestABoundVolumeStaysUntilItIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}
		w := controllertest.NewWorld(t, []runtime.Object{v}, volumeprotection.New)
		defer w.Close()
		api := w.Client.CoreV1().PersistentVolumes()
		w.Check(api.Delete(ctx, "v", metav1.DeleteOptions{}))
		w.Wait()
		got, err := api.Get(ctx, "v", metav1.GetOptions{})
		if err != nil {
			t.Fatalf("a bound volume went: %v", err)
		}
		got.Status.Phase = corev1.VolumeReleased
		controllertest.Must(api.UpdateStatus(ctx, got, metav1.UpdateOptions{}))
		w.Wait()
		if _, err := api.Get(ctx, "v", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the released volume is still there (%v)", err)
		}
	})
}
