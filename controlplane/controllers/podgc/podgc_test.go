// SPDX-License-Identifier: Apache-2.0

package podgc_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/podgc"
)

var ctx = context.Background()

func pod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c"}}}}
	if change != nil {
		change(p)
	}
	return p
}

func leaving(p *corev1.Pod) {
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.Now()), ptr.To[int64](30)
}

func TestWhoIsCollected(t *testing.T) {
	down := controllertest.Node("down")
	down.Status.Conditions[0].Status = corev1.ConditionUnknown
	out := down.DeepCopy()
	out.Name = "out"
	out.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	cordoned := controllertest.Node("tainted")
	cordoned.Spec.Taints = out.Spec.Taints // and ready: its kubelet does the work
	for _, test := range []struct {
		name string
		pod  *corev1.Pod
		gone bool
	}{
		{"a pod of a node that is not there", pod("p", "lost", nil), true},
		{"not a pod of a node that is", pod("p", "node-0", nil), false},
		{"not a pod of a node that is silent", pod("p", "down", leaving), false},
		{"a leaving pod of a node out of service", pod("p", "out", leaving), true},
		{"not a pod that stays on a node out of service", pod("p", "out", nil), false},
		{"not a leaving pod of a node that is declared out of service and works", pod("p", "tainted", leaving), false},
		{"a pod that was deleted before it had a node", pod("p", "", leaving), true},
		{"not a pod that waits for a node", pod("p", "", nil), false},
		{"not a finished pod, as long as there are few", pod("p", "node-0", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, []runtime.Object{controllertest.Node("node-0"), down, out, cordoned, test.pod}, podgc.New)
				defer w.Close()
				w.After(5 * time.Minute)
				if gone := len(w.Pods()) == 0; gone != test.gone {
					t.Errorf("gone: %v, want %v", gone, test.gone)
				}
			})
		})
	}
}

// TestAPodOfALostNodeFailsFirst, with the reason by which its Job counts it rightly, and only when the node has been away for 40 seconds.
func TestAPodOfALostNodeFailsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := pod("p", "lost", func(p *corev1.Pod) { p.Finalizers = []string{batch} })
		w := controllertest.NewWorld(t, []runtime.Object{controllertest.Node("node-0"), held}, podgc.New)
		defer w.Close()
		if w.After(45 * time.Second); w.Writes("delete pods") != 0 {
			t.Error("deleted before the node had been seen away for 40 seconds")
		}
		w.After(time.Minute)
		p := w.Pods()[0]
		c := controller.PodCondition(p, corev1.DisruptionTarget)
		if p.Status.Phase != corev1.PodFailed || c == nil || c.Status != corev1.ConditionTrue || c.Reason != "DeletionByPodGC" || p.DeletionTimestamp == nil {
			t.Errorf("phase %s, condition %+v, deleted %v", p.Status.Phase, c, p.DeletionTimestamp)
		}
	})
}

const batch = "batch.kubernetes.io/job-tracking"

// TestANodeThatComesBackInTimeKeepsItsPods, also when a node flaps: each absence counts anew.
func TestANodeThatComesBackInTimeKeepsItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{controllertest.Node("n"), pod("p", "n", nil)}, podgc.New)
		defer w.Close()
		for range 5 {
			w.Check(w.Client.CoreV1().Nodes().Delete(ctx, "n", metav1.DeleteOptions{}))
			w.After(35 * time.Second)
			controllertest.Must(w.Client.CoreV1().Nodes().Create(ctx, controllertest.Node("n"), metav1.CreateOptions{}))
			w.After(35 * time.Second)
		}
		if len(w.Pods()) != 1 {
			t.Error("the pod was collected")
		}
	})
}

func TestTheOldestFinishedPodsGoWhenThereAreTooMany(t *testing.T) {
	if testing.Short() {
		t.Skip("12,503 pods")
	}
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{controllertest.Node("n")}, podgc.New)
		defer w.Close()
		for i := range 12503 {
			if i == 3 {
				time.Sleep(time.Second) // the first three are older
			}
			p := pod(fmt.Sprintf("p%05d", i), "n", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
			controllertest.Must(w.Client.CoreV1().Pods("ns").Create(ctx, p, metav1.CreateOptions{}))
			if i%50 == 0 {
				synctest.Wait() // the fake API's watch has little room
			}
		}
		w.After(time.Minute)
		if all := w.Pods(); len(all) != 12500 || all[0].Name != "p00003" {
			t.Errorf("%d finished pods are left, the first is %s; want 12500 from p00003 on", len(all), all[0].Name)
		}
	})
}
