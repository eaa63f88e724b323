// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"maps"
	"math"

	v1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
)

func orInt32(p **int32, value int32) {
	if *p == nil {
		*p = &value
	}
}

func defaultJob(j *v1.Job) {
	if len(j.Labels) == 0 && j.Spec.Template.Labels != nil {
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
	s := &j.Spec
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions = new(int32(1))
	}
	orInt32(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		orInt32(&s.BackoffLimit, math.MaxInt32)
	}
	orInt32(&s.BackoffLimit, 6)
	if s.CompletionMode == nil {
		s.CompletionMode = new(v1.NonIndexedCompletion)
	}
	if s.Suspend == nil {
		s.Suspend = new(false)
	}
	if s.PodReplacementPolicy == nil {
		policy := v1.TerminatingOrFailed
		if s.PodFailurePolicy != nil {
			policy = v1.Failed
		}
		s.PodReplacementPolicy = &policy
	}
	if s.ManualSelector == nil {
		s.ManualSelector = new(false)
	}
	defaultJobSpec(s)
}

// defaultJobSpec fills what a Job and a CronJob's template share: the rest is filled when the Job is created.
func defaultJobSpec(s *v1.JobSpec) {
	podspec.Default(&s.Template.Spec)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		for j := range s.PodFailurePolicy.Rules[i].OnPodConditions {
			if p := &s.PodFailurePolicy.Rules[i].OnPodConditions[j]; p.Status == "" {
				p.Status = corev1.ConditionTrue
			}
		}
	}
}

func defaultCronJob(c *v1.CronJob) {
	if c.Spec.ConcurrencyPolicy == "" {
		c.Spec.ConcurrencyPolicy = v1.AllowConcurrent
	}
	if c.Spec.Suspend == nil {
		c.Spec.Suspend = new(false)
	}
	orInt32(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	orInt32(&c.Spec.FailedJobsHistoryLimit, 1)
	defaultJobSpec(&c.Spec.JobTemplate.Spec)
}
