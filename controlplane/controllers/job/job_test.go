// SPDX-License-Identifier: Apache-2.0

package job_test

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/job"
)

const index = batchv1.JobCompletionIndexAnnotation

func newJob(parallelism, completions int32, change func(*batchv1.JobSpec)) *batchv1.Job {
	labels := map[string]string{"job": "j"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j"},
		Spec: batchv1.JobSpec{
			Parallelism: &parallelism, Completions: &completions, BackoffLimit: ptr.To[int32](6), CompletionMode: ptr.To(batchv1.NonIndexedCompletion),
			Selector: &metav1.LabelSelector{MatchLabels: labels}, PodReplacementPolicy: ptr.To(batchv1.TerminatingOrFailed),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
	}
	if change != nil {
		change(&j.Spec)
	}
	return j
}

func indexed(s *batchv1.JobSpec) { s.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

type world struct{ *controllertest.World }

func start(t *testing.T, j *batchv1.Job) world {
	return world{controllertest.NewWorld(t, []runtime.Object{j}, job.New)}
}

func (w world) get() *batchv1.Job {
	j, err := w.Client.BatchV1().Jobs("ns").Get(context.Background(), "j", metav1.GetOptions{})
	w.Check(err)
	return j
}

func (w world) change(f func(*batchv1.JobSpec)) {
	j := w.get()
	f(&j.Spec)
	_, err := w.Client.BatchV1().Jobs("ns").Update(context.Background(), j, metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

func (w world) active() []*corev1.Pod { return controller.Filter(w.Pods(), controller.Active) }

// run starts all pods.
func (w world) run() {
	for range 3 {
		for _, pod := range w.active() {
			w.Step(pod)
		}
	}
}

func (w world) condition(t batchv1.JobConditionType) string {
	for _, c := range w.get().Status.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

func (w world) expect(t batchv1.JobConditionType, want string) {
	w.T.Helper()
	if got := w.condition(t); got != want {
		w.T.Errorf("condition %s is %q, want %q; status %+v", t, got, want, w.get().Status)
	}
}

func (w world) released() {
	w.T.Helper()
	for _, pod := range w.Pods() {
		if slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
			w.T.Errorf("pod %s still has the finalizer", pod.Name)
		}
	}
}

func TestCompletesAfterAllCompletions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(2, 3, nil))
		defer w.Close()
		for want := range int32(3) {
			w.run()
			if got := w.get().Status.Succeeded; got != want {
				t.Fatalf("%d succeeded, want %d", got, want)
			}
			if n := len(w.active()); n != int(min(2, 3-want)) {
				t.Fatalf("%d are active after %d of 3 succeeded, parallelism is 2", n, want)
			}
			w.End(w.active()[0], corev1.PodSucceeded, 0)
		}
		w.Wait()
		w.expect(batchv1.JobComplete, "True CompletionsReached")
		w.released()
		if s := w.get().Status; s.Succeeded != 3 || s.CompletionTime == nil || s.Active != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestIndexedPodsHaveTheirIndexAndFailedOnesAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(3, 3, indexed))
		defer w.Close()
		w.run()
		var one *corev1.Pod
		for _, pod := range w.active() {
			if pod.Annotations[index] == "1" {
				one = pod
			}
			if pod.Labels[index] != pod.Annotations[index] || pod.Spec.Hostname != "j-"+pod.Annotations[index] || pod.Spec.Containers[0].Env[0].Name != "JOB_COMPLETION_INDEX" {
				t.Errorf("pod %s: labels %v, host %s, env %v", pod.Name, pod.Labels, pod.Spec.Hostname, pod.Spec.Containers[0].Env)
			}
		}
		w.End(one, corev1.PodFailed, 1)
		if n := len(w.active()); n != 2 {
			t.Errorf("%d pods are active right after a failure, want 2: the back-off is 10 s", n)
		}
		time.Sleep(11 * time.Second)
		w.run()
		for _, pod := range w.active() {
			w.End(pod, corev1.PodSucceeded, 0)
		}
		w.Wait()
		w.expect(batchv1.JobComplete, "True CompletionsReached")
		if s := w.get().Status; s.CompletedIndexes != "0-2" || s.Succeeded != 3 || s.Failed != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestBackoffLimitFailsTheJobWhenItsPodsHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(2, 2, func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](0) }))
		defer w.Close()
		w.run()
		w.End(w.active()[0], corev1.PodFailed, 1)
		w.expect(batchv1.JobFailureTarget, "True BackoffLimitExceeded")
		w.expect(batchv1.JobFailed, "") // the other pod is still ending
		w.Rest()
		w.expect(batchv1.JobFailed, "True BackoffLimitExceeded")
		w.released()
		if s := w.get().Status; s.Failed != 2 || s.Active != 0 {
			t.Errorf("status %+v, want 2 failed: the one that failed and the one that was ended", s)
		}
	})
}

func TestDeadlineEndsTheJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(1, 1, func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](60) }))
		defer w.Close()
		w.run()
		time.Sleep(55 * time.Second)
		w.Wait()
		w.expect(batchv1.JobFailureTarget, "")
		time.Sleep(5 * time.Second)
		w.Rest()
		w.expect(batchv1.JobFailed, "True DeadlineExceeded")
	})
}

func TestSuspendedJobEndsItsPodsWithoutCountingThemAndResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(2, 2, nil))
		defer w.Close()
		w.run()
		w.change(func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) })
		w.Rest()
		w.expect(batchv1.JobSuspended, "True JobSuspended")
		if s := w.get().Status; s.Active != 0 || s.Failed != 0 || s.StartTime != nil {
			t.Errorf("suspended: status %+v", s)
		}
		w.change(func(s *batchv1.JobSpec) { s.Suspend = ptr.To(false) })
		w.run()
		w.expect(batchv1.JobSuspended, "False JobResumed")
		if s := w.get().Status; s.Active != 2 || s.StartTime == nil {
			t.Errorf("resumed: status %+v", s)
		}
	})
}

func TestPodFailurePolicy(t *testing.T) {
	rule := func(action batchv1.PodFailurePolicyAction) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) {
			indexed(s)
			s.BackoffLimitPerIndex, s.BackoffLimit, s.PodReplacementPolicy = ptr.To[int32](1), ptr.To[int32](100), ptr.To(batchv1.Failed)
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
			}}}
		}
	}
	for _, test := range []struct {
		name      string
		action    batchv1.PodFailurePolicyAction
		code      int32
		condition batchv1.JobConditionType
		want      string
		failed    int32
	}{
		{"FailJob ends the job", batchv1.PodFailurePolicyActionFailJob, 42, batchv1.JobFailed, "True PodFailurePolicy", 1},
		{"another exit code does not match", batchv1.PodFailurePolicyActionFailJob, 1, batchv1.JobFailed, "", 0},
		{"FailIndex gives up the index, here the only one", batchv1.PodFailurePolicyActionFailIndex, 42, batchv1.JobFailed, "True FailedIndexes", 1},
		{"Ignore does not count", batchv1.PodFailurePolicyActionIgnore, 42, batchv1.JobFailed, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, newJob(1, 1, rule(test.action)))
				defer w.Close()
				w.run()
				w.End(w.active()[0], corev1.PodFailed, test.code)
				w.Wait()
				w.expect(test.condition, test.want)
				if got := w.get().Status.Failed; got != test.failed {
					t.Errorf("%d failed, want %d", got, test.failed)
				}
			})
		})
	}
}

func TestBackoffLimitPerIndexGivesUpOneIndexAndFinishesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(2, 2, func(s *batchv1.JobSpec) {
			indexed(s)
			s.BackoffLimitPerIndex, s.BackoffLimit = ptr.To[int32](1), ptr.To[int32](1000)
		}))
		defer w.Close()
		for try := range 2 { // index 0 fails twice, which is once more than its limit
			w.run()
			for _, pod := range w.active() {
				if pod.Annotations[index] != "0" {
					continue
				}
				if got := pod.Annotations[batchv1.JobIndexFailureCountAnnotation]; got != fmt.Sprint(try) {
					t.Errorf("try %d carries the failure count %s", try, got)
				}
				w.End(pod, corev1.PodFailed, 1)
			}
			time.Sleep(30 * time.Second)
			w.Wait()
		}
		w.expect(batchv1.JobFailed, "")
		w.End(w.active()[0], corev1.PodSucceeded, 0)
		w.Wait()
		w.expect(batchv1.JobFailed, "True FailedIndexes")
		w.released()
		if s := w.get().Status; ptr.Deref(s.FailedIndexes, "") != "0" || s.CompletedIndexes != "1" || s.Failed != 2 || s.Succeeded != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestSuccessPolicyEndsTheJobEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(3, 3, func(s *batchv1.JobSpec) {
			indexed(s)
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0")}}}
		}))
		defer w.Close()
		w.run()
		for _, pod := range w.active() {
			if pod.Annotations[index] == "0" {
				w.End(pod, corev1.PodSucceeded, 0)
			}
		}
		w.expect(batchv1.JobSuccessCriteriaMet, "True SuccessPolicy")
		w.Rest()
		w.expect(batchv1.JobComplete, "True SuccessPolicy")
		w.released()
	})
}

func TestPodsOfADeletedJobLoseTheirFinalizer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(2, 2, nil))
		defer w.Close()
		w.run()
		w.Check(w.Client.BatchV1().Jobs("ns").Delete(context.Background(), "j", metav1.DeleteOptions{}))
		w.Wait()
		w.released()
	})
}

// TestCountsHoldWhateverHappens ends pods in every way and crashes the controller between writes. At no time do two pods of one index run, never more pods than the
// parallelism allows, and in the end every index has succeeded once and every failure is counted once.
func TestCountsHoldWhateverHappens(t *testing.T) {
	controllertest.Seeds(t, 25, func(t *testing.T, rnd *rand.Rand) { counts(t, rnd, false) })
}

// TestCountsHoldWhileCachesLag is the same with caches that show events late and in another order than they happened.
func TestCountsHoldWhileCachesLag(t *testing.T) {
	controllertest.Seeds(t, 25, func(t *testing.T, rnd *rand.Rand) { counts(t, rnd, true) })
}

func counts(t *testing.T, rnd *rand.Rand, lags bool) {
	parallelism, completions := int32(1+rnd.Intn(4)), int32(1+rnd.Intn(8))
	byIndex := rnd.Intn(2) == 0
	w := start(t, newJob(parallelism, completions, func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr.To[int32](1000)
		if byIndex {
			indexed(s)
		}
	}))
	defer w.Close()
	gvr := corev1.SchemeGroupVersion.WithResource("pods")
	w.API.Wrote = func(verb string, of schema.GroupVersionResource, obj runtime.Object) {
		if of != gvr {
			return
		}
		active, of2 := 0, map[string]string{}
		w.API.List(gvr, "Pod", func(o runtime.Object) {
			pod := o.(*corev1.Pod)
			if !controller.Active(pod) {
				return
			}
			active++
			if other := of2[pod.Annotations[index]]; byIndex && other != "" {
				t.Errorf("%s and %s run index %s at once", other, pod.Name, pod.Annotations[index])
			}
			of2[pod.Annotations[index]] = pod.Name
		})
		if active > int(parallelism) {
			t.Errorf("%d pods are active, parallelism is %d", active, parallelism)
		}
	}
	w.Lag(lags)
	failed := int32(0)
	for i := range 400 {
		if w.condition(batchv1.JobComplete) != "" {
			break
		}
		pods := w.active()
		switch k := rnd.Intn(12); {
		case k == 0:
			w.P.CrashAfter(rnd.Intn(4))
		case len(pods) == 0:
			w.CatchUp() // no cache is half a minute late
			time.Sleep(30 * time.Second)
		default:
			pod := pods[rnd.Intn(len(pods))]
			switch {
			case !controller.Ready(pod):
				w.Step(pod)
			case k < 4:
				failed++
				w.End(pod, corev1.PodFailed, 1)
			default:
				w.End(pod, corev1.PodSucceeded, 0)
			}
		}
		if w.Pass(rnd, rnd.Intn(6)); i%20 == 0 {
			w.CatchUp()
		}
		w.Wait()
		if w.P.Crashed() {
			w.Restart()
		}
	}
	if w.P.CrashAfter(-1); w.P.Crashed() {
		w.Restart()
	}
	for range 20 * completions {
		for _, pod := range w.active() {
			if !w.Step(pod) {
				w.End(pod, corev1.PodSucceeded, 0)
			}
		}
		w.CatchUp()
		time.Sleep(time.Minute)
		w.CatchUp()
	}
	s := w.get().Status
	if w.condition(batchv1.JobComplete) != "True CompletionsReached" || s.Succeeded != completions || s.Failed != failed {
		t.Errorf("in the end: %+v; want %d succeeded and %d failed", s, completions, failed)
	}
	w.released()
}

// update changes a pod as a user might.
func (w world) update(pod *corev1.Pod, f func(*corev1.Pod)) {
	w.T.Helper()
	pod = w.Pod(pod).DeepCopy()
	f(pod)
	_, err := w.Client.CoreV1().Pods("ns").Update(context.Background(), pod, metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

func TestOrphansAreAdoptedAndPodsThatNoLongerMatchReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(2, 2, nil))
		defer w.Close()
		w.run()
		first, second := w.active()[0], w.active()[1]
		w.update(first, func(p *corev1.Pod) { p.OwnerReferences = nil })
		if got := w.Pod(first); !metav1.IsControlledBy(got, w.get()) || !slices.Contains(got.Finalizers, batchv1.JobTrackingFinalizer) {
			t.Errorf("the orphan was not adopted again: owners %v, finalizers %v", got.OwnerReferences, got.Finalizers)
		}
		if n := len(w.Pods()); n != 2 {
			t.Errorf("%d pods after the adoption, want 2", n)
		}
		w.update(second, func(p *corev1.Pod) { p.Labels = map[string]string{"job": "another"} })
		if got := w.Pod(second); metav1.GetControllerOf(got) != nil || len(got.Finalizers) > 0 {
			t.Errorf("the pod that no longer matches was not released: owners %v, finalizers %v", got.OwnerReferences, got.Finalizers)
		}
		own := controller.Filter(w.active(), func(p *corev1.Pod) bool { return metav1.IsControlledBy(p, w.get()) })
		if len(own) != 2 {
			t.Errorf("the Job has %d active pods after it released one, parallelism is 2", len(own))
		}
	})
}

func TestDisruptedPodsDoNotCountWhenThePolicyIgnoresThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, newJob(1, 1, func(s *batchv1.JobSpec) {
			indexed(s)
			s.BackoffLimit = ptr.To[int32](0)
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}}}
		}))
		defer w.Close()
		for try := range 3 {
			w.run()
			pod := w.Pod(w.active()[0]).DeepCopy()
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI"})
			_, err := w.Client.CoreV1().Pods("ns").UpdateStatus(context.Background(), pod, metav1.UpdateOptions{})
			w.Check(err)
			w.End(w.Pod(pod), corev1.PodFailed, 137)
			w.After(time.Minute) // more than the back-off
			if len(w.active()) != 1 {
				t.Fatalf("no pod follows number %d, which was disrupted; status %+v", try, w.get().Status)
			}
		}
		if failed := w.get().Status.Failed; failed != 0 {
			t.Errorf("%d failures are counted, all were disruptions", failed)
		}
		w.run()
		w.End(w.active()[0], corev1.PodFailed, 1)
		w.After(time.Minute)
		w.expect(batchv1.JobFailed, "True BackoffLimitExceeded")
	})
}
