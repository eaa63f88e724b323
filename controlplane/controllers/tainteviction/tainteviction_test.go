// SPDX-License-Identifier: Apache-2.0

package tainteviction_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/tainteviction"
)

var ctx = context.Background()

func toleration(key string, seconds *int64) corev1.Toleration {
	return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}
}

func pod(tolerations ...corev1.Toleration) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n", Tolerations: tolerations, Containers: []corev1.Container{{Name: "c"}}}}
	return controllertest.Running(p, "10.0.0.1", time.Now())
}

func taint(key string, effect corev1.TaintEffect) corev1.Taint {
	now := metav1.Now()
	return corev1.Taint{Key: key, Effect: effect, TimeAdded: &now}
}

type world struct{ *controllertest.World }

func start(t *testing.T, p *corev1.Pod) world {
	return world{controllertest.NewWorld(t, []runtime.Object{controllertest.Node("n"), p}, tainteviction.New)}
}

func (w world) taint(taints ...corev1.Taint) {
	n := controllertest.Must(w.Client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{}))
	n.Spec.Taints = taints
	controllertest.Must(w.Client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}))
	w.Wait()
}

func (w world) leaving() bool {
	p := controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, "p", metav1.GetOptions{}))
	return p.DeletionTimestamp != nil
}

func TestHowLongAPodMayStay(t *testing.T) {
	const never = -1
	minute, hour := ptr.To[int64](60), ptr.To[int64](3600)
	for _, test := range []struct {
		name   string
		pod    []corev1.Toleration
		taints []corev1.TaintEffect // with the keys a, b, ...
		stay   time.Duration
	}{
		{"not at all without a toleration", nil, []corev1.TaintEffect{corev1.TaintEffectNoExecute}, 0},
		{"for good with a toleration without an end", []corev1.Toleration{toleration("a", nil)}, []corev1.TaintEffect{corev1.TaintEffectNoExecute}, never},
		{"as long as it tolerates", []corev1.Toleration{toleration("a", minute)}, []corev1.TaintEffect{corev1.TaintEffectNoExecute}, time.Minute},
		{"not at all with a negative time", []corev1.Toleration{toleration("a", ptr.To[int64](-5))}, []corev1.TaintEffect{corev1.TaintEffectNoExecute}, 0},
		{"the shorter of two tolerations of one taint", []corev1.Toleration{toleration("a", hour), toleration("", minute)}, []corev1.TaintEffect{corev1.TaintEffectNoExecute}, time.Minute},
		{"the shorter of two taints", []corev1.Toleration{toleration("a", hour), toleration("b", minute)}, []corev1.TaintEffect{corev1.TaintEffectNoExecute, corev1.TaintEffectNoExecute}, time.Minute},
		{"not at all with one taint that it does not tolerate", []corev1.Toleration{toleration("a", nil)}, []corev1.TaintEffect{corev1.TaintEffectNoExecute, corev1.TaintEffectNoExecute}, 0},
		{"for good with taints that only keep new pods away", nil, []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}, never},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, pod(test.pod...))
				defer w.Close()
				var taints []corev1.Taint
				for i, effect := range test.taints {
					taints = append(taints, taint(string(rune('a'+i)), effect))
				}
				w.taint(taints...)
				switch {
				case test.stay == never:
					if w.After(100 * time.Hour); w.leaving() {
						t.Error("it left")
					}
					return
				case test.stay > 0:
					if w.After(test.stay - 10*time.Second); w.leaving() {
						t.Fatalf("it left before %v", test.stay)
					}
					w.After(11 * time.Second)
				}
				if !w.leaving() {
					t.Fatalf("it stayed longer than %v", test.stay)
				}
				p := w.Pods()[0]
				if c := controller.PodCondition(p, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue || c.Reason != "DeletionByTaintManager" {
					t.Errorf("condition %+v", c)
				}
			})
		})
	}
}

func TestATaintThatDoesNotSaySinceWhenCountsFromItsFirstSight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pod(toleration("a", ptr.To[int64](60))))
		defer w.Close()
		untimed := taint("a", corev1.TaintEffectNoExecute)
		untimed.TimeAdded = nil
		w.After(time.Hour)
		w.taint(untimed)
		if w.After(50 * time.Second); w.leaving() {
			t.Fatal("it left before its time")
		}
		w.taint() // gone, and there again: another minute
		w.taint(untimed)
		if w.After(50 * time.Second); w.leaving() {
			t.Fatal("it left before its time began anew")
		}
		other := taint("b", corev1.TaintEffectPreferNoSchedule)
		w.taint(untimed, other) // another taint does not give it more time
		if w.After(11 * time.Second); !w.leaving() {
			t.Fatal("it stayed longer than it tolerates the taint")
		}
	})
}

func TestATaintThatGoesInTimeSparesThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pod(toleration("a", ptr.To[int64](60))))
		defer w.Close()
		w.taint(taint("a", corev1.TaintEffectNoExecute))
		w.After(50 * time.Second)
		w.taint()
		if w.After(time.Hour); w.leaving() {
			t.Error("it left though the taint had gone")
		}
	})
}

// TestARestartGivesNobodyMoreOrLessTime: the time runs from when the taint was added.
func TestARestartGivesNobodyMoreOrLessTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pod(toleration("a", ptr.To[int64](60))))
		defer w.Close()
		w.taint(taint("a", corev1.TaintEffectNoExecute))
		for range 5 {
			w.After(10 * time.Second)
			w.Restart()
		}
		if w.leaving() {
			t.Fatal("it left early")
		}
		if w.After(10 * time.Second); !w.leaving() {
			t.Error("each restart gave it a new minute")
		}
	})
}

func TestATolerationThatIsAddedLaterCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pod(toleration("a", ptr.To[int64](60))))
		defer w.Close()
		w.taint(taint("a", corev1.TaintEffectNoExecute))
		w.After(30 * time.Second)
		p := w.Pods()[0]
		p.Spec.Tolerations = []corev1.Toleration{toleration("a", ptr.To[int64](3600))}
		controllertest.Must(w.Client.CoreV1().Pods("ns").Update(ctx, p, metav1.UpdateOptions{}))
		if w.After(time.Minute); w.leaving() {
			t.Error("it left by the toleration that no longer holds")
		}
		if w.After(time.Hour); !w.leaving() {
			t.Error("it stayed beyond the hour")
		}
	})
}

// TestAClockThatJumps: a taint that says it was added tomorrow, or years ago, as a node's wrong clock or a restored backup leaves it, makes no hot loop.
func TestAClockThatJumps(t *testing.T) {
	for name, at := range map[string]time.Duration{"into the future": 24 * time.Hour, "into the past": -20 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, pod(toleration("a", ptr.To[int64](60))))
				defer w.Close()
				wrong := taint("a", corev1.TaintEffectNoExecute)
				wrong.TimeAdded = ptr.To(metav1.NewTime(time.Now().Add(at)))
				w.taint(wrong)
				w.After(10 * time.Second)
				if w.leaving() {
					t.Error("it left before it had been tolerated for the minute that both were there")
				}
				if w.After(25 * time.Hour); !w.leaving() {
					t.Error("it never left")
				}
				if n := w.Writes("patch pods"); n != 1 {
					t.Errorf("%d writes, want 1", n)
				}
			})
		})
	}
}
