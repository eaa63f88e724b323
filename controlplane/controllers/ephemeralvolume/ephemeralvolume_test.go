// SPDX-License-Identifier: Apache-2.0

package ephemeralvolume_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/ephemeralvolume"
)

var ctx = context.Background()

func pod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"size": "small"}}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("fast")},
		}}}},
		{Name: "other", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}}}
}

func TestAClaimIsMadeAndMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{pod()}, ephemeralvolume.New)
		defer w.Close()
		api := w.Client.CoreV1().PersistentVolumeClaims("ns")
		for range 2 {
			all := controllertest.Must(api.List(ctx, metav1.ListOptions{})).Items
			if len(all) != 1 || all[0].Name != "p-scratch" || all[0].Labels["size"] != "small" || *all[0].Spec.StorageClassName != "fast" {
				t.Fatalf("claims %+v", all)
			}
			if ref := metav1.GetControllerOf(&all[0]); ref == nil || ref.Kind != "Pod" || ref.Name != "p" || ref.BlockOwnerDeletion == nil {
				t.Errorf("owner %+v", ref)
			}
			w.Check(api.Delete(ctx, "p-scratch", metav1.DeleteOptions{})) // too early: it comes back
			w.Wait()
		}
	})
}

func TestAForeignClaimOfTheNameIsToldAndLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-scratch"}}, pod()}, ephemeralvolume.New)
		defer w.Close()
		w.After(time.Hour)
		if c := controllertest.Must(w.Client.CoreV1().PersistentVolumeClaims("ns").Get(ctx, "p-scratch", metav1.GetOptions{})); len(c.OwnerReferences) != 0 {
			t.Errorf("the foreign claim got owners %v", c.OwnerReferences)
		}
		events := w.P.Events.All()
		if len(events) == 0 || len(events) > 25 || !strings.Contains(events[0], "not created for pod") {
			t.Errorf("%d events in an hour, the first: %v", len(events), events[:min(1, len(events))])
		}
	})
}

func TestNoClaimForAPodThatIsLeavingOrFinished(t *testing.T) {
	for name, change := range map[string]func(*corev1.Pod){
		"leaving":  func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) },
		"finished": func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pod()
				change(p)
				w := controllertest.NewWorld(t, []runtime.Object{p}, ephemeralvolume.New)
				defer w.Close()
				if n := w.Writes("create persistentvolumeclaims"); n != 0 {
					t.Errorf("%d claims were made", n)
				}
			})
		})
	}
}
