// SPDX-License-Identifier: Apache-2.0

package statefulset_test

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
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/statefulset"
)

func newSet(replicas int32, change func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	labels := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels}, PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			Template:             corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
			UpdateStrategy:       appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
		},
	}
	if change != nil {
		change(set)
	}
	return set
}

type world struct{ *controllertest.World }

func start(t *testing.T, set *appsv1.StatefulSet) world {
	return world{controllertest.NewWorld(t, []runtime.Object{set}, statefulset.New)}
}

func (w world) get() *appsv1.StatefulSet {
	set, err := w.Client.AppsV1().StatefulSets("ns").Get(context.Background(), "db", metav1.GetOptions{})
	w.Check(err)
	return set
}

func (w world) change(f func(*appsv1.StatefulSet)) {
	set := w.get()
	f(set)
	_, err := w.Client.AppsV1().StatefulSets("ns").Update(context.Background(), set, metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

func (w world) image(image string) {
	w.change(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = image })
}

// show lists pods as name:image with a mark: + ready, - being deleted.
func (w world) show() string {
	var out []string
	for _, pod := range w.Pods() {
		text := pod.Name + ":" + pod.Spec.Containers[0].Image
		if controller.Ready(pod) {
			text += "+"
		}
		if pod.DeletionTimestamp != nil {
			text += "-"
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w world) expect(want string) {
	w.T.Helper()
	if got := w.show(); got != want {
		w.T.Fatalf("pods: %s\nwant: %s", got, want)
	}
}

func (w world) step(name string) {
	w.T.Helper()
	for _, pod := range w.Pods() {
		if pod.Name == name {
			w.Step(pod)
			return
		}
	}
	w.T.Fatalf("there is no pod %s", name)
}

func TestOrderedStartWaitsForEachPodToBeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(2, nil))
		defer w.Close()
		w.expect("db-0:v1")
		w.step("db-0") // bound
		w.expect("db-0:v1")
		w.step("db-0") // ready
		w.expect("db-0:v1+ db-1:v1")
	})
}

func TestParallelStartDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(3, func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }))
		defer w.Close()
		w.expect("db-0:v1 db-1:v1 db-2:v1")
	})
}

func TestPodsCarryTheirIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(1, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }))
		defer w.Close()
		pod := w.Pods()[0]
		if pod.Name != "db-5" || pod.Spec.Hostname != "db-5" || pod.Spec.Subdomain != "db" || pod.Labels["statefulset.kubernetes.io/pod-name"] != "db-5" ||
			pod.Labels["apps.kubernetes.io/pod-index"] != "5" || pod.Labels["controller-revision-hash"] != w.get().Status.UpdateRevision {
			t.Errorf("pod %s has host %s.%s, labels %v", pod.Name, pod.Spec.Hostname, pod.Spec.Subdomain, pod.Labels)
		}
		claim, err := w.Client.CoreV1().PersistentVolumeClaims("ns").Get(context.Background(), "data-db-5", metav1.GetOptions{})
		if err != nil || claim.Labels["app"] != "db" || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != claim.Name {
			t.Errorf("claim %v (%v), volumes %v", claim, err, pod.Spec.Volumes)
		}
	})
}

func TestScaleDownGoesFromTheHighestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(3, nil))
		defer w.Close()
		w.Rest()
		w.change(func(s *appsv1.StatefulSet) { *s.Spec.Replicas = 1 })
		w.expect("db-0:v1+ db-1:v1+ db-2:v1+-")
		w.step("db-2")
		w.step("db-2")
		w.expect("db-0:v1+ db-1:v1+-")
	})
}

func TestScaleDownWaitsWhileAnotherPodIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(3, nil))
		defer w.Close()
		w.Rest()
		broken := w.Pods()[0].DeepCopy()
		broken.Status.Conditions = nil
		_, err := w.Client.CoreV1().Pods("ns").UpdateStatus(context.Background(), broken, metav1.UpdateOptions{})
		w.Check(err)
		w.Wait()
		w.change(func(s *appsv1.StatefulSet) { *s.Spec.Replicas = 2 })
		w.expect("db-0:v1 db-1:v1+ db-2:v1+")
		w.step("db-0")
		w.expect("db-0:v1+ db-1:v1+ db-2:v1+-")
	})
}

func TestPartitionKeepsLowerOrdinalsAtTheOldRevisionEvenWhenTheyAreRecreated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(3, func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](2)}
		}))
		defer w.Close()
		w.Rest()
		w.image("v2")
		w.Rest()
		w.expect("db-0:v1+ db-1:v1+ db-2:v2+")
		w.Check(w.Client.CoreV1().Pods("ns").Delete(context.Background(), "db-0", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		w.Rest()
		w.expect("db-0:v1+ db-1:v1+ db-2:v2+")
		w.change(func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0) })
		w.Rest()
		w.expect("db-0:v2+ db-1:v2+ db-2:v2+")
		if s := w.get().Status; s.CurrentRevision != s.UpdateRevision || s.CurrentReplicas != 3 || s.UpdatedReplicas != 3 {
			t.Errorf("status after the update: %+v", s)
		}
	})
}

func TestOnDeleteReplacesOnlyWhatTheUserDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(2, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }))
		defer w.Close()
		w.Rest()
		w.image("v2")
		w.Rest()
		w.expect("db-0:v1+ db-1:v1+")
		w.Check(w.Client.CoreV1().Pods("ns").Delete(context.Background(), "db-1", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		w.Rest()
		w.expect("db-0:v1+ db-1:v2+")
	})
}

func TestClaimsGoWithTheSetOrTheScaledPodAsThePolicySays(t *testing.T) {
	for _, test := range []struct {
		name               string
		scaled, deleted    appsv1.PersistentVolumeClaimRetentionPolicyType
		ownerOf0, ownerOf1 string // of the claims of db-0, which stays, and db-1, which is scaled away
	}{
		{"retain both ways", "Retain", "Retain", "", ""},
		{"delete with the set", "Retain", "Delete", "StatefulSet", "StatefulSet"},
		{"delete with the pod when scaled", "Delete", "Retain", "", "Pod"},
		{"delete both ways", "Delete", "Delete", "StatefulSet", "Pod"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, newSet(2, func(s *appsv1.StatefulSet) {
					s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: test.scaled, WhenDeleted: test.deleted}
				}))
				defer w.Close()
				w.Rest()
				w.change(func(s *appsv1.StatefulSet) { *s.Spec.Replicas = 1 })
				w.Rest()
				for i, want := range []string{test.ownerOf0, test.ownerOf1} {
					claim, err := w.Client.CoreV1().PersistentVolumeClaims("ns").Get(context.Background(), fmt.Sprintf("data-db-%d", i), metav1.GetOptions{})
					w.Check(err)
					got := ""
					if len(claim.OwnerReferences) > 0 {
						got = claim.OwnerReferences[0].Kind
					}
					if got != want || len(claim.OwnerReferences) > 1 {
						t.Errorf("claim %s is owned by %v, want %q", claim.Name, claim.OwnerReferences, want)
					}
				}
			})
		})
	}
}

func TestFailedPodIsReplacedUnderItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(2, nil))
		defer w.Close()
		w.Rest()
		uid := w.Pods()[1].UID
		w.End(w.Pods()[1], corev1.PodFailed, 1)
		w.Rest()
		w.expect("db-0:v1+ db-1:v1+")
		if w.Pods()[1].UID == uid {
			t.Error("the failed pod is still there")
		}
	})
}

// TestInvariantsHoldWhateverHappens updates, scales back and forth, fails pods and crashes the controller between writes. After every write: an ordered set never has pod i+1
// created while pod i is missing, no deletion of a healthy pod in range leaves more than maxUnavailable unhealthy; in the end all pods are new.
func TestInvariantsHoldWhateverHappens(t *testing.T) {
	controllertest.Seeds(t, 25, func(t *testing.T, rnd *rand.Rand) { invariants(t, rnd, false) })
}

// TestInvariantsHoldWhileCachesLag is the same with caches that show events late and in another order than they happened.
func TestInvariantsHoldWhileCachesLag(t *testing.T) {
	controllertest.Seeds(t, 25, func(t *testing.T, rnd *rand.Rand) { invariants(t, rnd, true) })
}

func invariants(t *testing.T, rnd *rand.Rand, lags bool) {
	n, most := int32(1+rnd.Intn(5)), int32(1+rnd.Intn(2))
	ordered := rnd.Intn(2) == 0
	w := start(t, newSet(n, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: ptr.To(intstr.FromInt32(most))}
		if !ordered {
			s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		}
	}))
	defer w.Close()
	w.Rest()
	gvr := corev1.SchemeGroupVersion.WithResource("pods")
	mine := false
	w.API.Wrote = func(verb string, of schema.GroupVersionResource, obj runtime.Object) {
		if of != gvr || mine {
			return
		}
		exists, healthy := map[string]bool{}, 0
		w.API.List(gvr, "Pod", func(o runtime.Object) {
			pod := o.(*corev1.Pod)
			exists[pod.Name] = true
			if pod.DeletionTimestamp == nil && controller.Ready(pod) {
				healthy++
			}
		})
		pod := obj.(*corev1.Pod)
		var i int
		if _, err := fmt.Sscanf(pod.Name, "db-%d", &i); err != nil {
			t.Errorf("pod %s is not of the set", pod.Name)
		}
		if verb == "create" && ordered {
			for j := range i {
				if !exists[fmt.Sprintf("db-%d", j)] {
					t.Errorf("%s was created while db-%d is missing", pod.Name, j)
				}
			}
		}
		if verb == "delete" && w.KnownReady(pod) && int(n)-healthy > int(most) {
			t.Errorf("deleting %s leaves %d of %d healthy, %d may be unavailable", pod.Name, healthy, n, most)
		}
	}
	version := 1
	w.Lag(lags)
	for i := range 100 {
		pods := w.Pods()
		switch k := rnd.Intn(16); {
		case k == 0:
			version++
			w.image(fmt.Sprintf("v%d", version))
		case k == 1:
			w.P.CrashAfter(rnd.Intn(4))
		case k == 2 && len(pods) > 0:
			w.Calm() // the limits hold for what the controller can know
			if pod := w.Pod(pods[rnd.Intn(len(pods))]); pod != nil && controller.Ready(pod) && pod.DeletionTimestamp == nil {
				mine = true
				_, err := w.Client.CoreV1().Pods("ns").UpdateStatus(context.Background(), controllertest.Ended(pod, corev1.PodFailed, 1, time.Now()), metav1.UpdateOptions{})
				mine = false
				w.Check(err)
				w.CatchUp()
			}
		case len(pods) > 0:
			w.Step(pods[rnd.Intn(len(pods))])
		}
		if w.Pass(rnd, rnd.Intn(8)); i%20 == 0 {
			w.CatchUp()
		}
		w.Wait()
		if w.P.Crashed() {
			w.Restart()
		}
		for _, e := range w.P.Events.All() {
			if strings.HasPrefix(e, "Warning FailedCreate") && !w.P.Crashed() {
				t.Fatalf("a pod was created twice: %s", e)
			}
		}
	}
	if w.P.CrashAfter(-1); w.P.Crashed() {
		w.Restart()
	}
	w.Rest()
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("db-%d:v%d+", i, version))
	}
	w.expect(strings.Join(want, " "))
	if s := w.get().Status; s.ReadyReplicas != n || s.UpdatedReplicas != n || s.CurrentRevision != s.UpdateRevision {
		t.Errorf("in the end the status is %+v", s)
	}
}

func TestATemplateThatWasThereBeforeIsARollbackAndNoNewRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newSet(2, nil))
		defer w.Close()
		w.Rest()
		first := w.get().Status.UpdateRevision
		w.image("v2")
		w.Rest()
		second := w.get().Status.UpdateRevision
		if second == first {
			t.Fatal("another template has the same revision")
		}
		w.image("v1")
		if s := w.get().Status; s.UpdateRevision != first || s.CurrentRevision != second {
			t.Errorf("on the way back: current %s, update %s; want %s, %s", s.CurrentRevision, s.UpdateRevision, second, first)
		}
		w.Rest()
		w.expect("db-0:v1+ db-1:v1+")
		revisions := controllertest.Must(w.Client.AppsV1().ControllerRevisions("ns").List(context.Background(), metav1.ListOptions{})).Items
		if len(revisions) != 2 {
			t.Errorf("%d revisions, want 2: the old one is used again", len(revisions))
		}
		for _, r := range revisions {
			if want := map[string]int64{first: 3, second: 2}[r.Name]; r.Revision != want {
				t.Errorf("%s has number %d, want %d: the one in use is the newest", r.Name, r.Revision, want)
			}
		}
	})
}
