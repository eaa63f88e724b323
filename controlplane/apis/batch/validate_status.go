// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"

	v1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// validateJobStatus keeps a job's past consistent: what ended stays ended, with one outcome and its times.
func validateJobStatus(_ context.Context, j, old *v1.Job) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &j.Status
	for _, n := range []rule.Count{{Name: "active", N: st.Active}, {Name: "succeeded", N: st.Succeeded}, {Name: "failed", N: st.Failed}} {
		r.NotNegative(path.Child(n.Name), int64(n.N))
	}
	if st.Ready != nil {
		r.NotNegative(path.Child("ready"), int64(*st.Ready))
		if *st.Ready > st.Active {
			r.Invalid(path.Child("ready"), *st.Ready, "cannot be more than active")
		}
	}
	if st.Terminating != nil {
		r.NotNegative(path.Child("terminating"), int64(*st.Terminating))
	}
	has := func(s *v1.JobStatus, kind v1.JobConditionType) bool {
		for _, c := range s.Conditions {
			if c.Type == kind && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
	complete, failed := has(st, v1.JobComplete), has(st, v1.JobFailed)
	conditions := path.Child("conditions")
	if complete && failed {
		r.Invalid(conditions, st.Conditions, "cannot set Complete=True and Failed=True conditions")
	}
	if complete && has(st, v1.JobFailureTarget) {
		r.Invalid(conditions, st.Conditions, "cannot set Complete=True and FailureTarget=true conditions")
	}
	if failed && has(st, v1.JobSuccessCriteriaMet) {
		r.Invalid(conditions, st.Conditions, "cannot set Failed=True and SuccessCriteriaMet=true conditions")
	}
	if (complete || failed) && st.Active > 0 {
		r.Invalid(path.Child("active"), st.Active, "active>0 is invalid for finished job")
	}
	for _, kind := range []v1.JobConditionType{v1.JobComplete, v1.JobFailed, v1.JobFailureTarget, v1.JobSuccessCriteriaMet} {
		if has(&old.Status, kind) && !has(st, kind) {
			r.Invalid(conditions, st.Conditions, "cannot disable "+string(kind)+"=True condition")
		}
	}
	times(r, path, st, &old.Status, complete)
	uncounted(r, path.Child("uncountedTerminatedPods"), st.UncountedTerminatedPods, complete || failed)
	if st.CompletedIndexes != "" {
		indexes(r, path.Child("completedIndexes"), st.CompletedIndexes, j)
	}
	if st.FailedIndexes != nil {
		indexes(r, path.Child("failedIndexes"), *st.FailedIndexes, j)
		if j.Spec.BackoffLimitPerIndex == nil {
			r.Invalid(path.Child("failedIndexes"), *st.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
		}
	}
	return r.Errors()
}

func times(r *rule.Report, path *field.Path, st, was *v1.JobStatus, complete bool) {
	if complete {
		r.Required(path.Child("completionTime"), st.CompletionTime != nil, "completionTime is required for Complete jobs")
	} else if st.CompletionTime != nil {
		r.Invalid(path.Child("completionTime"), st.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
	}
	if st.CompletionTime != nil && st.StartTime != nil && st.CompletionTime.Before(st.StartTime) {
		r.Invalid(path.Child("completionTime"), st.CompletionTime, "completionTime cannot be set before startTime")
	}
	if was.CompletionTime != nil && st.CompletionTime != nil && !st.CompletionTime.Equal(was.CompletionTime) {
		r.Invalid(path.Child("completionTime"), st.CompletionTime, "completionTime cannot be mutated")
	}
}

// uncounted reports pods that are counted twice, and any left in a finished job.
func uncounted(r *rule.Report, path *field.Path, u *v1.UncountedTerminatedPods, finished bool) {
	if u == nil {
		return
	}
	if finished && len(u.Succeeded)+len(u.Failed) > 0 {
		r.Invalid(path, u, "uncountedTerminatedPods needs to be empty for finished job")
	}
	seen := map[types.UID]bool{}
	for _, l := range []struct {
		name string
		ids  []types.UID
	}{{"succeeded", u.Succeeded}, {"failed", u.Failed}} {
		for i, id := range l.ids {
			at := path.Child(l.name).Index(i)
			switch {
			case id == "":
				r.Invalid(at, id, "must not be empty")
			case seen[id]:
				r.Add(field.Duplicate(at, id))
			}
			seen[id] = true
		}
	}
}

func indexes(r *rule.Report, at *field.Path, text string, j *v1.Job) {
	if j.Spec.CompletionMode == nil || *j.Spec.CompletionMode != v1.IndexedCompletion {
		r.Invalid(at, text, "must be empty when completion mode is not Indexed")
		return
	}
	if _, err := countIndexes(text, j.Spec.Completions); err != nil {
		r.Invalid(at, text, "error parsing "+at.String()+": "+err.Error())
	}
}
