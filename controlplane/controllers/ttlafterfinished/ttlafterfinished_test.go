// SPDX-License-Identifier: Apache-2.0

package ttlafterfinished_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/ttlafterfinished"
)

var ctx = context.Background()

func job(ttl *int32, condition batchv1.JobConditionType) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j"}, Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl}}
	if condition != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	}
	return j
}

func deleted(w *controllertest.World) bool {
	j, err := w.Client.BatchV1().Jobs("ns").Get(ctx, "j", metav1.GetOptions{})
	return err != nil || j.DeletionTimestamp != nil
}

func TestWhenAJobGoes(t *testing.T) {
	for _, test := range []struct {
		name      string
		ttl       *int32
		condition batchv1.JobConditionType
		after     time.Duration // never when 0
	}{
		{"a complete one after its time", ptr.To[int32](600), batchv1.JobComplete, 10 * time.Minute},
		{"a failed one too", ptr.To[int32](600), batchv1.JobFailed, 10 * time.Minute},
		{"at once with zero", ptr.To[int32](0), batchv1.JobComplete, time.Millisecond},
		{"never without a time", nil, batchv1.JobComplete, 0},
		{"never while it runs", ptr.To[int32](1), "", 0},
		{"never while it is suspended", ptr.To[int32](1), batchv1.JobSuspended, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, []runtime.Object{job(test.ttl, test.condition)}, ttlafterfinished.New)
				defer w.Close()
				if test.after == 0 {
					if w.After(24 * time.Hour); deleted(w) {
						t.Error("it is gone")
					}
					return
				}
				if test.after > time.Minute {
					if w.After(test.after - time.Minute); deleted(w) {
						t.Errorf("gone a minute before %v", test.after)
					}
				}
				if w.After(2 * time.Minute); !deleted(w) {
					t.Errorf("still there after %v", test.after)
				}
			})
		})
	}
}

// TestAProlongedTimeIsHeededThoughTheCacheLags: a deletion cannot be taken back, so the API server is asked first.
func TestAProlongedTimeIsHeededThoughTheCacheLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{job(ptr.To[int32](600), batchv1.JobComplete)}, ttlafterfinished.New)
		defer w.Close()
		w.Lag(true)
		j := controllertest.Must(w.Client.BatchV1().Jobs("ns").Get(ctx, "j", metav1.GetOptions{}))
		j.Spec.TTLSecondsAfterFinished = ptr.To[int32](3600)
		controllertest.Must(w.Client.BatchV1().Jobs("ns").Update(ctx, j, metav1.UpdateOptions{}))
		if w.After(30 * time.Minute); deleted(w) {
			t.Fatal("deleted by the time that no longer holds")
		}
		if w.After(31 * time.Minute); !deleted(w) {
			t.Error("not deleted by the time that holds")
		}
	})
}
