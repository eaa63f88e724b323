// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// decide finds out whether the Job is to end, and how. The verdict is written as FailureTarget or SuccessCriteriaMet at once and never changes; Failed or Complete
// follows when the last pod has ended and is counted (conclude).
func (s *state) decide() {
	spec := &s.job.Spec
	if had := target(s.job); had != nil {
		s.verdict = had
		return
	}
	switch message, ok := s.successPolicy(); {
	case s.policyFailure != "":
		s.judge(batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy, s.policyFailure)
	case ok:
		s.judge(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message)
	case s.failTotal > ptr.Deref(spec.BackoffLimit, 6) || s.restartedTooOften():
		s.judge(batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case s.overdue():
		s.judge(batchv1.JobFailureTarget, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case s.perIndex() && spec.MaxFailedIndexes != nil && s.failed.len() > int(*spec.MaxFailedIndexes):
		s.judge(batchv1.JobFailureTarget, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	case s.perIndex() && s.failed.len() > 0 && s.done.len()+s.failed.len() >= s.completions:
		s.judge(batchv1.JobFailureTarget, batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	case suspended(s.job):
	case spec.Completions == nil && s.succeeded > 0 && len(s.active) == 0:
		s.judge(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	case spec.Completions != nil && s.succeeded >= *spec.Completions:
		if s.succeeded > *spec.Completions {
			s.events = append(s.events, event{corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"})
		}
		s.judge(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
	if s.verdict == nil {
		s.suspension()
	}
}

func (s *state) judge(t batchv1.JobConditionType, reason, message string) {
	s.verdict = s.setCondition(t, corev1.ConditionTrue, reason, message)
}

// suspension keeps the Suspended condition and the start time, from which the deadline counts.
func (s *state) suspension() {
	c := find(s.job, batchv1.JobSuspended)
	is := c != nil && c.Status == corev1.ConditionTrue
	switch {
	case suspended(s.job) && !is:
		s.setCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		s.job.Status.StartTime = nil
		s.events = append(s.events, event{corev1.EventTypeNormal, "Suspended", "Job suspended"})
	case !suspended(s.job) && is:
		s.setCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		s.job.Status.StartTime = ptr.To(metav1.NewTime(s.now))
		s.events = append(s.events, event{corev1.EventTypeNormal, "Resumed", "Job resumed"})
	case !suspended(s.job) && s.job.Status.StartTime == nil:
		s.job.Status.StartTime = ptr.To(metav1.NewTime(s.now))
	}
}

// conclude ends a Job whose verdict has been given, whose pods have all ended and been counted.
func (s *state) conclude() {
	if s.verdict == nil || len(s.active) > 0 || s.terminating > 0 || s.pendingAccounting ||
		slices.ContainsFunc(s.pods, func(p *corev1.Pod) bool { return tracked(p) }) {
		return
	}
	s.job.Status.UncountedTerminatedPods = nil
	if s.verdict.Type == batchv1.JobFailureTarget {
		s.setCondition(batchv1.JobFailed, corev1.ConditionTrue, s.verdict.Reason, s.verdict.Message)
		s.events = append(s.events, event{corev1.EventTypeWarning, s.verdict.Reason, s.verdict.Message})
		return
	}
	if s.job.Status.StartTime == nil { // nothing ever ran: a Job of zero completions
		s.job.Status.StartTime = ptr.To(metav1.NewTime(s.now))
	}
	s.job.Status.CompletionTime = ptr.To(metav1.NewTime(s.now))
	s.setCondition(batchv1.JobComplete, corev1.ConditionTrue, s.verdict.Reason, s.verdict.Message)
	s.events = append(s.events, event{corev1.EventTypeNormal, "Completed", "Job completed"})
}

// comeBack asks for a sync at the deadline, or when a back-off ends.
func (s *state) comeBack() {
	if d := s.job.Spec.ActiveDeadlineSeconds; d != nil && s.job.Status.StartTime != nil && s.verdict == nil {
		left := max(s.job.Status.StartTime.Add(time.Duration(*d)*time.Second).Sub(s.now), 0) + time.Millisecond
		if s.wait == 0 || left < s.wait {
			s.wait = left
		}
	}
	if s.wait > 0 {
		s.queue.AddAfter(s.key, s.wait)
	}
}

func (s *state) overdue() bool {
	d, start := s.job.Spec.ActiveDeadlineSeconds, s.job.Status.StartTime
	return d != nil && start != nil && !suspended(s.job) && s.now.Sub(start.Time) >= time.Duration(*d)*time.Second
}

// restartedTooOften: with restartPolicy OnFailure the kubelet restarts containers in place, and those restarts count against the limit.
func (s *state) restartedTooOften() bool {
	if s.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	var restarts int32
	for _, pod := range s.pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, c := range pod.Status.InitContainerStatuses {
			restarts += c.RestartCount
		}
		for _, c := range pod.Status.ContainerStatuses {
			restarts += c.RestartCount
		}
	}
	limit := ptr.Deref(s.job.Spec.BackoffLimit, 6)
	return limit == 0 && restarts > 0 || limit > 0 && restarts >= limit
}

// successPolicy reports whether a rule of the success policy is met.
func (s *state) successPolicy() (message string, ok bool) {
	if s.job.Spec.SuccessPolicy == nil || !s.indexed {
		return "", false
	}
	for i, rule := range s.job.Spec.SuccessPolicy.Rules {
		n, need := s.done.len(), 0
		if rule.SucceededIndexes != nil {
			of := parseIndexes(*rule.SucceededIndexes, s.completions)
			n, need = s.done.common(of), of.len()
		}
		if rule.SucceededCount != nil {
			need = int(*rule.SucceededCount)
		}
		if need > 0 && n >= need {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}

// failurePolicy is the action of the first rule that a failed pod matches, "" when none does.
func (s *state) failurePolicy(pod *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if s.job.Spec.PodFailurePolicy == nil {
		return "", ""
	}
	for i, rule := range s.job.Spec.PodFailurePolicy.Rules {
		if rule.OnExitCodes != nil {
			for _, c := range append(slices.Clone(pod.Status.ContainerStatuses), pod.Status.InitContainerStatuses...) {
				ended := c.State.Terminated
				if ended == nil || ended.ExitCode == 0 || rule.OnExitCodes.ContainerName != nil && *rule.OnExitCodes.ContainerName != c.Name {
					continue
				}
				in := slices.Contains(rule.OnExitCodes.Values, ended.ExitCode)
				if in == (rule.OnExitCodes.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
					return rule.Action, fmt.Sprintf("Container %s for pod %s failed with exit code %v matching %v rule at index %d",
						c.Name, controller.Key(pod), ended.ExitCode, rule.Action, i)
				}
			}
			continue
		}
		for _, pattern := range rule.OnPodConditions {
			if c := controller.PodCondition(pod, pattern.Type); c != nil && c.Status == cmp.Or(pattern.Status, corev1.ConditionTrue) {
				return rule.Action, fmt.Sprintf("Pod %s has condition %v matching %v rule at index %d", controller.Key(pod), pattern.Type, rule.Action, i)
			}
		}
	}
	return "", ""
}

func (s *state) setCondition(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) *batchv1.JobCondition {
	now := metav1.NewTime(s.now)
	c := batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	if had := find(s.job, t); had != nil {
		*had = c
	} else {
		s.job.Status.Conditions = append(s.job.Status.Conditions, c)
	}
	return &c
}

func find(job *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if job.Status.Conditions[i].Type == t {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(job *batchv1.Job, t batchv1.JobConditionType) bool {
	c := find(job, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

func finished(job *batchv1.Job) bool {
	return isTrue(job, batchv1.JobComplete) || isTrue(job, batchv1.JobFailed)
}

// target is the verdict that an earlier sync wrote.
func target(job *batchv1.Job) *batchv1.JobCondition {
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if isTrue(job, t) {
			c := *find(job, t)
			return &c
		}
	}
	return nil
}

func suspended(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) }
