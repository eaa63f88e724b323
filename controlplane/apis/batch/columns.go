// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"time"

	v1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func jobColumns() []resource.Column[*v1.Job] {
	cols := []resource.Column[*v1.Job]{
		column.Text("Status", "Whether the job runs, waits or has ended.", jobStatus),
		column.Text("Completions", "Pods that succeeded, of those that must.", completions),
		column.Text("Duration", "Time from start to completion.", func(j *v1.Job) string {
			switch {
			case j.Status.StartTime == nil:
				return ""
			case j.Status.CompletionTime == nil:
				return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
			}
			return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
		}),
	}
	cols = append(cols, column.Containers(func(j *v1.Job) *corev1.PodSpec { return &j.Spec.Template.Spec })...)
	return column.Standard(append(cols, column.Wide(column.Text("Selector", "Labels of the job's pods.",
		func(j *v1.Job) string { return metav1.FormatLabelSelector(j.Spec.Selector) })))...)
}

func jobStatus(j *v1.Job) string {
	is := func(kind v1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == kind {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case is(v1.JobComplete):
		return "Complete"
	case is(v1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case is(v1.JobSuspended):
		return "Suspended"
	case is(v1.JobFailureTarget):
		return "FailureTarget"
	case is(v1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *v1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if p := j.Spec.Parallelism; p != nil && *p > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *p)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func cronJobColumns() []resource.Column[*v1.CronJob] {
	cols := []resource.Column[*v1.CronJob]{
		column.Text("Schedule", "When jobs are started, in cron's notation.", func(c *v1.CronJob) string { return c.Spec.Schedule }),
		column.Text("Timezone", "Time zone of the schedule.", func(c *v1.CronJob) string { return column.Pointed(c.Spec.TimeZone, column.None) }),
		column.Text("Suspend", "Whether starting jobs is suspended.", func(c *v1.CronJob) string {
			switch {
			case c.Spec.Suspend == nil:
				return column.Unset
			case *c.Spec.Suspend:
				return "True"
			}
			return "False"
		}),
		column.Int("Active", "Jobs that run.", func(c *v1.CronJob) int { return len(c.Status.Active) }),
		column.Text("Last Schedule", "Time since a job was last started.", func(c *v1.CronJob) string {
			if c.Status.LastScheduleTime == nil {
				return column.None
			}
			return column.Since(*c.Status.LastScheduleTime)
		}),
	}
	cols = append(cols, column.Containers(func(c *v1.CronJob) *corev1.PodSpec { return &c.Spec.JobTemplate.Spec.Template.Spec })...)
	return column.Standard(append(cols, column.Wide(column.Text("Selector", "Labels of the jobs' pods.",
		func(c *v1.CronJob) string { return metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector) })))...)
}
