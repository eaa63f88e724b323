// SPDX-License-Identifier: Apache-2.0

// Package ttlafterfinished deletes Jobs some time after they finished, as spec.ttlSecondsAfterFinished says. It watches and deletes Jobs.
package ttlafterfinished

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c      *controller.Context
	queue  *controller.Queue
	jobs   batchlisters.JobLister
	synced cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("ttl-after-finished-controller", "ttl-after-finished-controller")
	jobs := c.Informers.Batch().V1().Jobs()
	l := &loop{c: c, jobs: jobs.Lister(), synced: jobs.Informer().HasSynced}
	l.queue = c.Queue("ttlafterfinished", l.sync)
	controller.On(jobs.Informer(), func(obj any) {
		if job, ok := controller.Object[*batchv1.Job](obj); ok && job.Spec.TTLSecondsAfterFinished != nil {
			l.queue.Enqueue(job)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced)
}

// sync deletes a Job whose time is over, or comes back when it will be. The time is read again from the API server before the deletion: it may have been prolonged.
func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	job, err := l.jobs.Jobs(namespace).Get(name)
	if err != nil || !l.expired(key, job) {
		return controller.IgnoreNotFound(err)
	}
	job, err = l.c.Client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil || !l.expired(key, job) {
		return controller.IgnoreNotFound(err)
	}
	foreground := metav1.DeletePropagationForeground
	err = l.c.Client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	})
	if apierrors.IsConflict(err) {
		l.queue.Add(key)
		return nil
	}
	return controller.IgnoreNotFound(err)
}

func (l *loop) expired(key string, job *batchv1.Job) bool {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type != batchv1.JobComplete && c.Type != batchv1.JobFailed) || c.Status != corev1.ConditionTrue {
			continue
		}
		left := c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second).Sub(l.c.Clock.Now())
		if left > 0 {
			l.queue.AddAfter(key, left)
		}
		return left <= 0
	}
	return false
}
