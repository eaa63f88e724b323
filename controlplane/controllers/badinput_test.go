// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

// What users and clocks do that nobody meant: every case must end in a state that says what is wrong, and the work queues must come to rest.

var (
	ctx = context.Background()
	web = map[string]string{"app": "web"}
)

// calm is how many keys a queue may get in an hour in which nothing happens. Back-off alone makes fewer than twenty for one key.
const calm = 60

// added counts what each work queue of this process has been given so far: the metric that operators watch.
func added(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "workqueue_adds_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "name" {
					out[l.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("the process has no metric workqueue_adds_total")
	}
	return out
}

// rests lets an hour pass and fails when a queue got more than calm keys in it.
func rests(w *controllertest.World) {
	w.T.Helper()
	before := added(w.T)
	w.After(time.Hour)
	for name, n := range added(w.T) {
		if n -= before[name]; n > calm {
			w.T.Errorf("queue %s got %.0f keys in an hour in which nothing happened, want %d at most", name, n, calm)
		}
	}
}

// start runs the named controllers, on a clock that is ahead of time by what skew says at each moment.
func start(t *testing.T, skew *time.Duration, objs []runtime.Object, names ...string) *controllertest.World {
	selected, err := controllers.Select(names)
	if err != nil {
		t.Fatal(err)
	}
	var news []func(*controller.Context) controller.Controller
	for _, r := range selected {
		news = append(news, func(c *controller.Context) controller.Controller {
			if skew != nil {
				c.Clock = skewed{skew: skew}
			}
			return r.New(c)
		})
	}
	return controllertest.NewWorld(t, objs, news...)
}

// skewed is the time plus what a wrong clock adds.
type skewed struct {
	clock.RealClock
	skew *time.Duration
}

func (s skewed) Now() time.Time                  { return time.Now().Add(*s.skew) }
func (s skewed) Since(t time.Time) time.Duration { return s.Now().Sub(t) }

func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

// TestOwnersInACircle: a owns b owns c owns a. Kubernetes' garbage collector keeps a circle nobody deletes, and takes all of it when one is deleted.
func TestOwnersInACircle(t *testing.T) {
	for _, test := range []struct {
		name   string
		size   int // 1 is an object that owns itself
		policy metav1.DeletionPropagation
		left   int
	}{
		{"three, one deleted in the background", 3, metav1.DeletePropagationBackground, 0},
		{"three, one deleted in the foreground", 3, metav1.DeletePropagationForeground, 0},
		{"three, one deleted and the others orphaned: a circle cut open has one owner that is gone", 3, metav1.DeletePropagationOrphan, 2},
		{"itself, deleted in the background", 1, metav1.DeletePropagationBackground, 0},
		{"itself, deleted in the foreground", 1, metav1.DeletePropagationForeground, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, nil, nil, "garbagecollector")
				defer w.Close()
				api := w.Client.CoreV1().ConfigMaps("ns")
				var all []*corev1.ConfigMap
				for i := range test.size {
					all = append(all, controllertest.Must(api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("c", i)}}, metav1.CreateOptions{})))
				}
				for i, c := range all {
					owner := all[(i+1)%len(all)]
					c = c.DeepCopy()
					c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: ptr.To(true)}}
					controllertest.Must(api.Update(ctx, c, metav1.UpdateOptions{}))
				}
				w.Wait()
				rests(w)
				left := func() int { return len(controllertest.Must(api.List(ctx, metav1.ListOptions{})).Items) }
				if n := left(); n != test.size {
					t.Fatalf("%d of %d are left though nobody deleted anything", n, test.size)
				}
				w.Check(api.Delete(ctx, "c0", metav1.DeleteOptions{PropagationPolicy: &test.policy}))
				w.After(time.Minute)
				if n := left(); n != test.left {
					t.Errorf("%d are left, want %d", n, test.left)
				}
				rests(w)
			})
		})
	}
}

// TestAnOwnerOfAKindNobodyServesKeepsItsDependents, quietly: its definition may come back.
func TestAnOwnerOfAKindNobodyServesKeepsItsDependents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		orphan := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Widget", Name: "w", UID: "w"}}}}
		w := start(t, nil, []runtime.Object{orphan}, "garbagecollector")
		defer w.Close()
		rests(w)
		if _, err := w.Client.CoreV1().ConfigMaps("ns").Get(ctx, "c", metav1.GetOptions{}); err != nil {
			t.Errorf("deleted on a guess: %v", err)
		}
	})
}

// TestSelectorsThatMatchEverything: validation refuses most of them today, but stored objects outlive it. Nothing is adopted and nothing made.
func TestSelectorsThatMatchEverything(t *testing.T) {
	all := &metav1.LabelSelector{}
	m := metav1.ObjectMeta{Namespace: "ns", Name: "all"}
	for _, test := range []struct {
		controller string
		obj        runtime.Object
		event      string
	}{
		{"deployment", &appsv1.Deployment{ObjectMeta: m, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](3), Selector: all, Template: template(web)}}, "SelectingAll"},
		{"daemonset", &appsv1.DaemonSet{ObjectMeta: m, Spec: appsv1.DaemonSetSpec{Selector: all, Template: template(web)}}, "SelectingAll"},
		{"statefulset", &appsv1.StatefulSet{ObjectMeta: m, Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](1), Selector: all, Template: template(web)}}, ""},
		{"replicaset", &appsv1.ReplicaSet{ObjectMeta: m, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1), Selector: all, Template: template(web)}}, ""},
		{"job", &batchv1.Job{ObjectMeta: m, Spec: batchv1.JobSpec{Selector: all, Template: template(web), Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](1), BackoffLimit: ptr.To[int32](1)}}, ""},
	} {
		t.Run(test.controller, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stranger := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "stranger", Labels: map[string]string{"mine": "yes"}}, Spec: template(nil).Spec}
				w := start(t, nil, []runtime.Object{controllertest.Node("n"), stranger, test.obj}, test.controller)
				defer w.Close()
				rests(w)
				p := controllertest.Must(w.Client.CoreV1().Pods("ns").Get(ctx, "stranger", metav1.GetOptions{}))
				if len(p.OwnerReferences) != 0 {
					t.Errorf("a foreign pod was adopted: %+v", p.OwnerReferences)
				}
				if n := len(w.Pods()); n > 2 {
					t.Errorf("%d pods", n)
				}
				if events := strings.Join(w.P.Events.All(), "\n"); !strings.Contains(events, test.event) {
					t.Errorf("no event %s: %s", test.event, events)
				}
			})
		})
	}
}

// TestTwoSetsThatSelectTheSamePodsDoNotFight: each counts its own.
func TestTwoSetsThatSelectTheSamePodsDoNotFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := func(name string) runtime.Object {
			return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](3), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(web)}}
		}
		w := start(t, nil, []runtime.Object{set("a"), set("b")}, "replicaset")
		defer w.Close()
		w.Rest()
		rests(w)
		if n := len(w.Pods()); n != 6 || w.Writes("create pods") != 6 || w.Writes("delete pods") != 0 {
			t.Errorf("%d pods after %d creations and %d deletions, want 6, 6, 0", n, w.Writes("create pods"), w.Writes("delete pods"))
		}
	})
}

// TestPodsThatCanNeverRun: no node will ever take them. The Deployment says so after its deadline, and all queues are calm long before.
func TestPodsThatCanNeverRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		impossible := template(web)
		impossible.Spec.NodeSelector = map[string]string{"no": "such-node"}
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](5), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: impossible, ProgressDeadlineSeconds: ptr.To[int32](600),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType},
		}}
		w := start(t, nil, []runtime.Object{controllertest.Node("n"), d}, "deployment", "replicaset")
		defer w.Close()
		rests(w)
		if n := len(w.Pods()); n != 5 {
			t.Errorf("%d pods, want 5", n)
		}
		got := controllertest.Must(w.Client.AppsV1().Deployments("ns").Get(ctx, "d", metav1.GetOptions{}))
		stuck := false
		for _, c := range got.Status.Conditions {
			stuck = stuck || c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded"
		}
		if !stuck {
			t.Errorf("nothing says that it is stuck: %+v", got.Status.Conditions)
		}
	})
}

// TestAJobWhosePodsFailAtOnce stops at its limit, and each try waits longer than the one before.
func TestAJobWhosePodsFailAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := template(map[string]string{"job": "j"})
		spec.Spec.RestartPolicy = corev1.RestartPolicyNever
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j"}, Spec: batchv1.JobSpec{
			Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](1), BackoffLimit: ptr.To[int32](3), Template: spec, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"job": "j"}},
			CompletionMode: ptr.To(batchv1.NonIndexedCompletion), PodReplacementPolicy: ptr.To(batchv1.TerminatingOrFailed), Suspend: ptr.To(false),
		}}
		w := start(t, nil, []runtime.Object{j}, "job")
		defer w.Close()
		for range 100 {
			for _, p := range w.Pods() {
				if p.DeletionTimestamp == nil && !controller.Finished(p) {
					w.End(p, corev1.PodFailed, 1)
				}
			}
			w.After(30 * time.Second)
		}
		if n := w.Writes("create pods"); n != 4 {
			t.Errorf("%d pods were tried, want 4", n)
		}
		rests(w)
		got := controllertest.Must(w.Client.BatchV1().Jobs("ns").Get(ctx, "j", metav1.GetOptions{}))
		failed := false
		for _, c := range got.Status.Conditions {
			failed = failed || c.Type == batchv1.JobFailed && c.Reason == batchv1.JobReasonBackoffLimitExceeded
		}
		if !failed {
			t.Errorf("conditions %+v", got.Status.Conditions)
		}
	})
}

// TestClocksThatJump: the controllers' clock is set a day ahead or back while they work, as a virtual machine does that was suspended, or one whose clock was wrong.
func TestClocksThatJump(t *testing.T) {
	for _, jump := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var skew time.Duration
				job := template(map[string]string{"cron": "c"})
				job.Spec.RestartPolicy = corev1.RestartPolicyNever
				w := start(t, &skew, []runtime.Object{
					controllertest.Node("n"),
					&batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: batchv1.CronJobSpec{
						Schedule: "0 * * * *", ConcurrencyPolicy: batchv1.AllowConcurrent, Suspend: ptr.To(false), JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: job}},
					}},
					&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: appsv1.DeploymentSpec{
						Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(web), MinReadySeconds: 5,
						Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType},
					}},
				}, "cronjob", "deployment", "replicaset", "ttlafterfinished", "csrcleaner", "tokencleaner")
				defer w.Close()
				w.Rest()
				w.After(30 * time.Minute)
				before := w.Writes("create jobs")
				skew = jump
				// A touch by which every queue sees the new time.
				d := controllertest.Must(w.Client.AppsV1().Deployments("ns").Get(ctx, "d", metav1.GetOptions{}))
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, "touched", "yes")
				controllertest.Must(w.Client.AppsV1().Deployments("ns").Update(ctx, d, metav1.UpdateOptions{}))
				c := controllertest.Must(w.Client.BatchV1().CronJobs("ns").Get(ctx, "c", metav1.GetOptions{}))
				metav1.SetMetaDataAnnotation(&c.ObjectMeta, "touched", "yes")
				controllertest.Must(w.Client.BatchV1().CronJobs("ns").Update(ctx, c, metav1.UpdateOptions{}))
				rests(w)
				// A day ahead: the missed hours are one job, and the hour that passes another. A day back: nothing is due that has not been.
				if n, most := w.Writes("create jobs")-before, 2; n > most {
					t.Errorf("%d jobs were started in the hour after the jump, want %d at most", n, most)
				}
				if n := w.Writes("delete pods"); n != 0 {
					t.Errorf("%d pods were deleted because of the clock", n)
				}
			})
		})
	}
}
