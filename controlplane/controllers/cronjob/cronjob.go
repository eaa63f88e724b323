// SPDX-License-Identifier: Apache-2.0

// Package cronjob starts a Job whenever the schedule of a CronJob says so.
//
// It watches CronJobs and Jobs. It creates Jobs named after their scheduled minute, so that no crash can start one twice, deletes what the concurrency policy and
// the history limits no longer want, and writes the CronJob's status. Between two times it sleeps: nothing polls.
package cronjob

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	ref "k8s.io/client-go/tools/reference"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

var gvk = batchv1.SchemeGroupVersion.WithKind("CronJob")

type loop struct {
	c      *controller.Context
	queue  *controller.Queue
	crons  batchlisters.CronJobLister
	jobsOf controller.Owned[*batchv1.Job]
	writes *controller.Writes
	synced []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("cronjob-controller", "cronjob-controller")
	crons, jobs := c.Informers.Batch().V1().CronJobs(), c.Informers.Batch().V1().Jobs()
	l := &loop{
		c: c, crons: crons.Lister(), jobsOf: controller.OwnedBy[*batchv1.Job](jobs.Informer()), writes: controller.NewWrites(c.Clock),
		synced: []cache.InformerSynced{crons.Informer().HasSynced, jobs.Informer().HasSynced},
	}
	l.queue = c.Queue("cronjob", l.sync)
	controller.On(crons.Informer(), l.queue.Enqueue)
	controller.On(jobs.Informer(), func(obj any) {
		job, ok := controller.Object[*batchv1.Job](obj)
		if !ok {
			return
		}
		if owner := metav1.GetControllerOfNoCopy(job); owner != nil && owner.Kind == gvk.Kind {
			l.queue.Add(job.Namespace + "/" + owner.Name)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	cached, err := l.crons.CronJobs(namespace).Get(name)
	if err != nil {
		l.writes.Forget(key)
		return controller.IgnoreNotFound(err)
	}
	if !l.writes.Seen(key, func(string) metav1.Object { return cached }) {
		l.queue.AddAfter(key, 100*time.Millisecond)
		return nil
	}
	s := &state{loop: l, key: key, cron: cached.DeepCopy(), jobs: l.jobsOf.Of(cached), now: l.c.Clock.Now()}
	s.history()
	if cached.DeletionTimestamp == nil {
		if err := s.clean(ctx); err != nil {
			return err
		}
	}
	startErr := s.start(ctx)
	if !equality.Semantic.DeepEqual(cached.Status, s.cron.Status) {
		updated, err := l.c.Client.BatchV1().CronJobs(namespace).UpdateStatus(ctx, s.cron, metav1.UpdateOptions{})
		if err != nil {
			return controller.IgnoreNotFound(err)
		}
		l.writes.Wrote(key, updated)
	}
	return startErr
}

// state is one sync of one CronJob; cron is a copy whose status becomes the new one.
type state struct {
	*loop
	key  string
	cron *batchv1.CronJob
	jobs []*batchv1.Job
	now  time.Time
}

func (s *state) event(kind, reason, format string, args ...any) {
	s.c.Events.Eventf(s.cron, kind, reason, format, args...)
}

// history brings status.active and lastSuccessfulTime in line with the Jobs that exist.
func (s *state) history() {
	byUID := map[types.UID]*batchv1.Job{}
	for _, job := range s.jobs {
		byUID[job.UID] = job
		end := endCondition(job)
		at := slices.IndexFunc(s.cron.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == job.UID })
		switch {
		case end == "" && at < 0:
			s.event(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
			s.activate(job)
		case end != "" && at >= 0:
			s.cron.Status.Active = slices.Delete(s.cron.Status.Active, at, at+1)
			s.event(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, end)
		}
		if t := job.Status.CompletionTime; end == batchv1.JobComplete && t != nil && (s.cron.Status.LastSuccessfulTime == nil || s.cron.Status.LastSuccessfulTime.Before(t)) {
			s.cron.Status.LastSuccessfulTime = t
		}
	}
	s.cron.Status.Active = controller.Filter(s.cron.Status.Active, func(r corev1.ObjectReference) bool {
		if byUID[r.UID] == nil {
			s.event(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", r.Name)
		}
		return byUID[r.UID] != nil
	})
}

func (s *state) activate(job *batchv1.Job) {
	if r, err := ref.GetReference(scheme.Scheme, job); err == nil {
		s.cron.Status.Active = append(s.cron.Status.Active, *r)
	}
}

// clean deletes the oldest finished Jobs beyond the history limits.
func (s *state) clean(ctx context.Context) error {
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: s.cron.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: s.cron.Spec.FailedJobsHistoryLimit,
	} {
		jobs := controller.Filter(s.jobs, func(j *batchv1.Job) bool { return endCondition(j) == end && j.DeletionTimestamp == nil })
		if limit == nil || len(jobs) <= int(*limit) {
			continue
		}
		slices.SortFunc(jobs, func(a, b *batchv1.Job) int { return started(a).Compare(started(b)) })
		for _, job := range jobs[:len(jobs)-int(*limit)] {
			if err := s.delete(ctx, job.Name, job.UID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *state) delete(ctx context.Context, name string, uid types.UID) error {
	background := metav1.DeletePropagationBackground
	err := s.c.Client.BatchV1().Jobs(s.cron.Namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if controller.IgnoreNotFound(err) != nil {
		s.event(corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	s.event(corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", name)
	return nil
}

// start starts the Job of the latest scheduled time that has passed, and comes back at the next one.
func (s *state) start(ctx context.Context) error {
	spec := &s.cron.Spec
	if s.cron.DeletionTimestamp != nil || ptr.Deref(spec.Suspend, false) {
		return nil
	}
	schedule, err := parse(spec)
	if err != nil {
		s.event(corev1.EventTypeWarning, err.reason, "%v", err)
		return nil // a new spec brings us back
	}
	due, missed := s.due(schedule)
	defer func() { s.queue.AddAfter(s.key, schedule.Next(s.now).Sub(s.now)+50*time.Millisecond) }()
	if missed > 100 {
		s.event(corev1.EventTypeWarning, "TooManyMissedTimes",
			"too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew: %d were missed, only the last is started", missed)
	}
	switch {
	case due.IsZero():
		return nil
	case spec.StartingDeadlineSeconds != nil && due.Add(time.Duration(*spec.StartingDeadlineSeconds)*time.Second).Before(s.now):
		s.event(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return nil
	case spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(s.cron.Status.Active) > 0:
		s.event(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return nil // its end brings us back, and a start then is in time as long as the deadline has not passed
	case spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, r := range s.cron.Status.Active {
			if err := s.delete(ctx, r.Name, r.UID); err != nil {
				return err
			}
		}
		s.cron.Status.Active = nil
	}
	job := s.newJob(due)
	created, cerr := s.c.Client.BatchV1().Jobs(job.Namespace).Create(ctx, job, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(cerr) {
		if created, cerr = s.c.Client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{}); cerr != nil {
			return cerr
		}
		if !metav1.IsControlledBy(created, s.cron) {
			return fmt.Errorf("the name %s is taken by a job of somebody else", job.Name)
		}
	} else if cerr != nil {
		if !apierrors.HasStatusCause(cerr, corev1.NamespaceTerminatingCause) {
			s.event(corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", cerr)
		}
		return cerr
	} else {
		s.event(corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", created.Name)
	}
	s.cron.Status.LastScheduleTime = &metav1.Time{Time: due}
	if endCondition(created) == "" && !slices.ContainsFunc(s.cron.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == created.UID }) {
		s.activate(created)
	}
	return nil
}

// newJob is the Job of a scheduled time; the minute is part of its name.
func (s *state) newJob(due time.Time) *batchv1.Job {
	t := &s.cron.Spec.JobTemplate
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.cron.Namespace, Name: fmt.Sprintf("%s-%d", s.cron.Name, due.Unix()/60), Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations),
			CreationTimestamp: metav1.Time{Time: due}, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.cron, gvk)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
	if job.Annotations == nil {
		job.Annotations = map[string]string{}
	}
	if zone := s.cron.Spec.TimeZone; zone != nil {
		if z, err := time.LoadLocation(*zone); err == nil {
			due = due.In(z)
		}
	}
	job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = due.Format(time.RFC3339)
	return job
}

func endCondition(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

func started(job *batchv1.Job) time.Time {
	if job.Status.StartTime != nil {
		return job.Status.StartTime.Time
	}
	return job.CreationTimestamp.Time
}
