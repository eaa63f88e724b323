// SPDX-License-Identifier: Apache-2.0

// Package job runs the pods of each Job until enough of them succeeded or the Job failed.
//
// It watches Jobs and Pods. It creates and deletes pods, takes the tracking finalizer off pods once they are counted, and writes the Job's status.
//
//	pods -> account (finished ones become uncounted, then counted) -> outcome (failed? succeeded? suspended?) -> manage (create, delete) -> status -> finalizers
//
// Every finished pod is counted exactly once, whatever crashes in between: its UID is first recorded in status.uncountedTerminatedPods, then its finalizer
// is removed, and only what is recorded and has lost its finalizer moves into the counters. Until then the finalizer keeps the pod from disappearing.
package job

import (
	"context"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

var gvk = batchv1.SchemeGroupVersion.WithKind("Job")

// batch is how long a pod event waits for others: the pods of one Job tend to end together.
const batch = 100 * time.Millisecond

type loop struct {
	c       *controller.Context
	queue   *controller.Queue
	orphans *controller.Queue // pods with our finalizer whose Job is gone
	jobs    batchlisters.JobLister
	podList corelisters.PodLister
	podsOf  controller.Owned[*corev1.Pod]
	podIO   controller.Pods
	expect  *controller.Expectations
	writes  *controller.Writes
	synced  []cache.InformerSynced

	mu       sync.Mutex
	failures map[string]record // by Job key
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("job-controller", "job-controller")
	jobs, pods := c.Informers.Batch().V1().Jobs(), c.Informers.Core().V1().Pods()
	l := &loop{
		c: c, jobs: jobs.Lister(), podList: pods.Lister(), podsOf: controller.OwnedBy[*corev1.Pod](pods.Informer()),
		podIO:  controller.Pods{Client: c.Client, Events: c.Events},
		expect: controller.NewExpectations(c.Clock), writes: controller.NewWrites(c.Clock),
		failures: map[string]record{},
		synced:   []cache.InformerSynced{jobs.Informer().HasSynced, pods.Informer().HasSynced},
	}
	l.queue = c.Queue("job", l.sync)
	l.orphans = c.Queue("job_orphan_pod", l.releaseOrphan)
	controller.Watch(jobs.Informer(), func(old, obj any) {
		l.queue.Enqueue(obj)
		if job, ok := controller.Object[*batchv1.Job](obj); ok && old == obj {
			for _, pod := range l.podsOf.Of(job) {
				l.orphans.Enqueue(pod)
			}
		}
	})
	controller.Watch(pods.Informer(), l.podChanged)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.orphans.Run(ctx, 2, l.synced...)
	}()
	err := l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
	<-done
	return err
}

func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	cached, err := l.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		l.expect.Forget(key)
		l.writes.Forget(key)
		l.forget(key)
		return nil
	} else if err != nil {
		return err
	}
	if m := cached.Spec.ManagedBy; m != nil && *m != batchv1.JobControllerName {
		return nil // another controller has it
	}
	// Counting on a status older than our own last write would count twice.
	if !l.writes.Seen(key, func(string) metav1.Object { return cached }) {
		l.queue.AddAfter(key, batch)
		return nil
	}
	overdue := l.expect.Wait(key)
	if overdue > 0 {
		l.queue.AddAfter(key, overdue)
	}
	s, err := l.newState(ctx, key, cached.DeepCopy())
	if err != nil {
		return err
	}
	if cached.DeletionTimestamp != nil || finished(cached) {
		return s.release(ctx, s.pods) // nothing more to count
	}
	s.account()
	s.decide()
	manageErr := s.manage(ctx, overdue == 0)
	s.conclude()
	if err := s.writeStatus(ctx); err != nil {
		return err
	}
	if err := s.release(ctx, s.counted); err != nil {
		return err
	}
	s.comeBack()
	return manageErr
}

// podChanged lowers expectations and asks for a sync of the pod's Job; a pod whose Job is gone is released.
func (l *loop) podChanged(oldObj, newObj any) {
	pod, ok := controller.Object[*corev1.Pod](newObj)
	if !ok {
		return
	}
	old, _ := controller.Object[*corev1.Pod](oldObj)
	if old != nil && old != pod {
		if was := l.ownerOf(old); was != nil {
			l.queue.Enqueue(was)
		}
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if job := l.ownerOf(pod); job != nil {
		key := controller.Key(job)
		if old == nil {
			l.expect.Created(key)
		}
		if old == pod || pod.DeletionTimestamp != nil {
			l.expect.Deleted(key, pod.UID)
		}
		l.queue.AddAfter(key, batch)
		return
	}
	if old != pod && tracked(pod) && (ref == nil || ref.Kind == gvk.Kind) {
		l.orphans.Enqueue(pod)
	}
	if ref != nil || old == pod || old != nil && labels.Equals(old.Labels, pod.Labels) && metav1.GetControllerOfNoCopy(old) == nil {
		return
	}
	all, err := l.jobs.Jobs(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, job := range all {
		if s, err := metav1.LabelSelectorAsSelector(job.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) {
			l.queue.Enqueue(job)
		}
	}
}

func (l *loop) ownerOf(pod *corev1.Pod) *batchv1.Job {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != gvk.Kind {
		return nil
	}
	if job, err := l.jobs.Jobs(pod.Namespace).Get(ref.Name); err == nil && job.UID == ref.UID {
		return job
	}
	return nil
}

// releaseOrphan takes the finalizer off a pod whose Job does not exist any more.
func (l *loop) releaseOrphan(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	pod, err := l.podList.Pods(namespace).Get(name)
	if err != nil || !tracked(pod) || l.ownerOf(pod) != nil {
		return controller.IgnoreNotFound(err)
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if ref.Kind != gvk.Kind {
			return nil
		}
		job, err := l.c.Client.BatchV1().Jobs(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err == nil && job.UID == ref.UID {
			return nil // the cache is behind
		} else if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	// A Job that adopts the pod at this moment relies on the finalizer: then the pod has another version, and the next try sees its owner.
	return controller.IgnoreNotFound(l.untrackIf(ctx, pod, map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion}))
}
