// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	v1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// An Indexed job that may fail per index keeps a list of failed indexes in its status; these bounds keep that list small.
const (
	maxIndexed, maxIndexedParallel          = 1_000_000_000, 100_000
	maxFailedMany, manyCompletions, maxMany = 10_000, 100_000, 10_000
)

func validateJob(_ context.Context, j *v1.Job) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	jobSpec(r, path, &j.Spec)
	at := path.Child("selector")
	if r.Required(at, j.Spec.Selector != nil, "") {
		if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(labels.Set(j.Spec.Template.Labels)) {
			r.Invalid(path.Child("template", "metadata", "labels"), j.Spec.Template.Labels, "`selector` does not match template `labels`")
		}
	}
	if j.Spec.ManualSelector == nil || !*j.Spec.ManualSelector {
		generatedSelector(r, path, j)
	}
	if c := j.Spec.CompletionMode; c != nil && *c == v1.IndexedCompletion && j.Spec.Completions != nil && *j.Spec.Completions > 0 {
		// The last pod's hostname is the job's name and its index.
		name := j.Name + "-" + strconv.Itoa(int(*j.Spec.Completions-1))
		if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
			r.Invalid(field.NewPath("metadata", "name"), j.Name, "will not be able to create pod with hostname "+name+": "+strings.Join(msgs, "; "))
		}
	}
	return r.Errors()
}

// generatedSelector reports labels or a selector that a client set where the server does.
func generatedSelector(r *rule.Report, path *field.Path, j *v1.Job) {
	want := map[string]string{v1.ControllerUidLabel: string(j.UID), legacyControllerUID: string(j.UID), v1.JobNameLabel: j.Name, "job-name": j.Name}
	for _, k := range []string{v1.ControllerUidLabel, v1.JobNameLabel, legacyControllerUID, "job-name"} {
		if got := j.Spec.Template.Labels[k]; got != want[k] {
			r.Invalid(path.Child("template", "metadata", "labels").Key(k), got, "must be '"+want[k]+"'")
		}
	}
	s := j.Spec.Selector
	if s == nil {
		return
	}
	// Jobs from before the labels had a domain keep the selector they were created with.
	short := len(s.MatchLabels) == 1 && s.MatchLabels[legacyControllerUID] == string(j.UID)
	if !short && (len(s.MatchLabels) != 1 || s.MatchLabels[v1.ControllerUidLabel] != string(j.UID) || len(s.MatchExpressions) > 0) {
		r.Invalid(path.Child("selector"), s, "`selector` not auto-generated")
	}
}

// jobSpec reports what is wrong with a job, be it one or a CronJob's template.
func jobSpec(r *rule.Report, path *field.Path, s *v1.JobSpec) {
	for _, n := range []struct {
		name  string
		value *int32
	}{
		{"parallelism", s.Parallelism}, {"completions", s.Completions}, {"backoffLimit", s.BackoffLimit}, {"ttlSecondsAfterFinished", s.TTLSecondsAfterFinished},
		{"backoffLimitPerIndex", s.BackoffLimitPerIndex}, {"maxFailedIndexes", s.MaxFailedIndexes},
	} {
		if n.value != nil {
			r.NotNegative(path.Child(n.name), int64(*n.value))
		}
	}
	if s.ActiveDeadlineSeconds != nil {
		r.NotNegative(path.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds)
	}
	r.Selector(path.Child("selector"), s.Selector)
	indexed(r, path, s)
	rule.OneOfOptional(r, path.Child("podReplacementPolicy"), s.PodReplacementPolicy, v1.Failed, v1.TerminatingOrFailed)
	if s.PodFailurePolicy != nil {
		failurePolicy(r, path.Child("podFailurePolicy"), s)
		if p := s.PodReplacementPolicy; p != nil && *p == v1.TerminatingOrFailed {
			r.Add(field.NotSupported(path.Child("podReplacementPolicy"), *p, []v1.PodReplacementPolicy{v1.Failed}))
		}
	}
	if s.SuccessPolicy != nil {
		successPolicy(r, path.Child("successPolicy"), s)
	}
	if m := s.ManagedBy; m != nil {
		r.Add(validation.IsDomainPrefixedPath(path.Child("managedBy"), *m)...)
		if len(*m) > 63 {
			r.Add(field.TooLong(path.Child("managedBy"), *m, 63))
		}
	}
	podspec.ValidateTemplate(r, path.Child("template"), &s.Template)
	at := path.Child("template", "spec", "restartPolicy")
	switch p := s.Template.Spec.RestartPolicy; {
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		r.Invalid(at, p, "only \"Never\" is supported when podFailurePolicy is specified")
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		r.Required(at, false, "valid values: \"OnFailure\", \"Never\"")
	}
}

func indexed(r *rule.Report, path *field.Path, s *v1.JobSpec) {
	mode := v1.NonIndexedCompletion
	if s.CompletionMode != nil {
		mode = *s.CompletionMode
		rule.OneOf(r, path.Child("completionMode"), mode, v1.NonIndexedCompletion, v1.IndexedCompletion)
	}
	perIndex := s.BackoffLimitPerIndex != nil
	if mode != v1.IndexedCompletion {
		if perIndex {
			r.Invalid(path.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode")
		}
		if s.MaxFailedIndexes != nil {
			r.Invalid(path.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode")
		}
		return
	}
	if !r.Required(path.Child("completions"), s.Completions != nil, "when completion mode is Indexed") {
		return
	}
	if *s.Completions > maxIndexed {
		r.Invalid(path.Child("completions"), *s.Completions, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexed))
	}
	if s.Parallelism != nil && *s.Parallelism > maxIndexedParallel {
		r.Invalid(path.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexedParallel))
	}
	if s.MaxFailedIndexes != nil {
		at := path.Child("maxFailedIndexes")
		if *s.MaxFailedIndexes > *s.Completions {
			r.Invalid(at, *s.MaxFailedIndexes, "must be less than or equal to completions")
		}
		if *s.MaxFailedIndexes > manyCompletions {
			r.Invalid(at, *s.MaxFailedIndexes, fmt.Sprintf("must be less than or equal to %d", manyCompletions))
		}
		r.Required(path.Child("backoffLimitPerIndex"), perIndex, "when maxFailedIndexes is specified")
	}
	if perIndex && *s.Completions > manyCompletions {
		at := path.Child("maxFailedIndexes")
		if r.Required(at, s.MaxFailedIndexes != nil, "must be specified when completions is above 100000") && *s.MaxFailedIndexes > maxFailedMany {
			r.Invalid(at, *s.MaxFailedIndexes, "must be less than or equal to 10000 when completions are above 100000")
		}
		if s.Parallelism != nil && *s.Parallelism > maxMany {
			r.Invalid(path.Child("parallelism"), *s.Parallelism,
				"must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index")
		}
	}
}

func failurePolicy(r *rule.Report, path *field.Path, s *v1.JobSpec) {
	rules := s.PodFailurePolicy.Rules
	if n := len(rules); n > 20 {
		r.Add(field.TooMany(path.Child("rules"), n, 20))
	}
	containers := map[string]bool{}
	for _, list := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range list {
			containers[list[i].Name] = true
		}
	}
	for i := range rules {
		x, at := &rules[i], path.Child("rules").Index(i)
		rule.OneOf(r, at.Child("action"), x.Action, v1.PodFailurePolicyActionCount, v1.PodFailurePolicyActionFailIndex, v1.PodFailurePolicyActionFailJob,
			v1.PodFailurePolicyActionIgnore)
		if x.Action == v1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			r.Invalid(at.Child("action"), x.Action, "requires the backoffLimitPerIndex to be set")
		}
		r.ExactlyOne(at, rule.Choice{Name: "onExitCodes", Set: x.OnExitCodes != nil}, rule.Choice{Name: "onPodConditions", Set: len(x.OnPodConditions) > 0})
		if e := x.OnExitCodes; e != nil {
			exitCodes(r, at.Child("onExitCodes"), e, containers)
		}
		if n := len(x.OnPodConditions); n > 20 {
			r.Add(field.TooMany(at.Child("onPodConditions"), n, 20))
		}
		for j, p := range x.OnPodConditions {
			at := at.Child("onPodConditions").Index(j)
			r.Invalid(at.Child("type"), p.Type, validation.IsQualifiedName(string(p.Type))...)
			rule.OneOf(r, at.Child("status"), p.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
		}
	}
}

func exitCodes(r *rule.Report, at *field.Path, e *v1.PodFailurePolicyOnExitCodesRequirement, containers map[string]bool) {
	rule.OneOf(r, at.Child("operator"), e.Operator, v1.PodFailurePolicyOnExitCodesOpIn, v1.PodFailurePolicyOnExitCodesOpNotIn)
	if e.ContainerName != nil && !containers[*e.ContainerName] {
		r.Invalid(at.Child("containerName"), *e.ContainerName, "must be one of the container or initContainer names in the pod template")
	}
	values := at.Child("values")
	if len(e.Values) == 0 {
		r.Invalid(values, e.Values, "at least one value is required")
	}
	if n := len(e.Values); n > 255 {
		r.Add(field.TooMany(values, n, 255))
	}
	for i, v := range e.Values {
		if e.Operator == v1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			r.Invalid(values.Index(i), v, "must not be 0 for the In operator")
		}
		if slices.Contains(e.Values[:i], v) {
			r.Add(field.Duplicate(values.Index(i), v))
		}
		if i > 0 && e.Values[i-1] > v {
			r.Invalid(values, e.Values, "must be ordered")
			break
		}
	}
}

func successPolicy(r *rule.Report, path *field.Path, s *v1.JobSpec) {
	if s.CompletionMode == nil || *s.CompletionMode != v1.IndexedCompletion {
		r.Invalid(path, s.SuccessPolicy, "requires indexed completion mode")
		return
	}
	rules := s.SuccessPolicy.Rules
	r.Required(path.Child("rules"), len(rules) > 0, "at least one rules must be specified when the successPolicy is specified")
	if n := len(rules); n > 20 {
		r.Add(field.TooMany(path.Child("rules"), n, 20))
	}
	for i := range rules {
		x, at := &rules[i], path.Child("rules").Index(i)
		r.Required(at, x.SucceededIndexes != nil || x.SucceededCount != nil, "at least one of succeededCount or succeededIndexes must be specified")
		total := int32(-1)
		if x.SucceededIndexes != nil {
			n, err := countIndexes(*x.SucceededIndexes, s.Completions)
			if err != nil {
				r.Invalid(at.Child("succeededIndexes"), *x.SucceededIndexes, "error parsing succeededIndexes: "+err.Error())
			} else {
				total = n
			}
		}
		if n := x.SucceededCount; n != nil {
			at := at.Child("succeededCount")
			r.NotNegative(at, int64(*n))
			if s.Completions != nil && *n > *s.Completions {
				r.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *s.Completions))
			}
			if total >= 0 && *n > total {
				r.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total))
			}
		}
	}
}

// countIndexes counts the indexes in text, as "1,3-5,7": ascending, within completions.
func countIndexes(text string, completions *int32) (int32, error) {
	if text == "" {
		return 0, nil
	}
	const limit = 64 * 1024
	if len(text) > limit {
		return 0, fmt.Errorf("too long: %d characters, at most %d are allowed", len(text), limit)
	}
	last, count := int64(-1), int64(0)
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		a, err := strconv.ParseInt(from, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("cannot convert string to integer for index: %q", part)
		}
		b := a
		if ranged {
			if b, err = strconv.ParseInt(to, 10, 32); err != nil {
				return 0, fmt.Errorf("cannot convert string to integer for index: %q", part)
			}
			if b <= a {
				return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", a, b)
			}
		}
		if a <= last {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, a)
		}
		if completions != nil && b >= int64(*completions) {
			return 0, fmt.Errorf("too large index: %q", part)
		}
		last, count = b, count+b-a+1
	}
	return int32(min(count, 1<<31-1)), nil
}

// validateJobUpdate: a job that has started does what it was started for. While it is suspended and nothing of it runs, where its pods go and what
// they may use can still be decided.
func validateJobUpdate(_ context.Context, j, old *v1.Job) field.ErrorList {
	r := &rule.Report{}
	path, s, was := field.NewPath("spec"), &j.Spec, &old.Spec
	indexed := was.CompletionMode != nil && *was.CompletionMode == v1.IndexedCompletion
	if !indexed || s.Completions == nil || s.Parallelism == nil || *s.Completions != *s.Parallelism {
		r.Same(path.Child("completions"), s.Completions, was.Completions) // an elastic indexed job changes both together
	}
	r.Same(path.Child("selector"), s.Selector, was.Selector)
	r.Same(path.Child("completionMode"), s.CompletionMode, was.CompletionMode)
	r.Same(path.Child("podFailurePolicy"), s.PodFailurePolicy, was.PodFailurePolicy)
	r.Same(path.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, was.BackoffLimitPerIndex)
	r.Same(path.Child("managedBy"), s.ManagedBy, was.ManagedBy)
	r.Same(path.Child("successPolicy"), s.SuccessPolicy, was.SuccessPolicy)
	r.Same(path.Child("scheduling"), s.Scheduling, was.Scheduling)
	template := s.Template.DeepCopy()
	suspended := was.Suspend != nil && *was.Suspend
	if suspended && old.Status.StartTime == nil && old.Status.Active == 0 {
		t, o := &template.Spec, &was.Template.Spec
		template.Labels, template.Annotations = was.Template.Labels, was.Template.Annotations
		t.NodeSelector, t.Tolerations, t.SchedulingGates = o.NodeSelector, o.Tolerations, o.SchedulingGates
		switch {
		case o.Affinity == nil && t.Affinity != nil && t.Affinity.PodAffinity == nil && t.Affinity.PodAntiAffinity == nil:
			t.Affinity = nil
		case t.Affinity == nil && o.Affinity != nil && o.Affinity.PodAffinity == nil && o.Affinity.PodAntiAffinity == nil:
			t.Affinity = o.Affinity
		case t.Affinity != nil && o.Affinity != nil:
			t.Affinity.NodeAffinity = o.Affinity.NodeAffinity
		}
		keepResources(t.Containers, o.Containers)
		keepResources(t.InitContainers, o.InitContainers)
	}
	if !equality.Semantic.DeepEqual(*template, was.Template) {
		r.Invalid(path.Child("template"), "", "field is immutable")
	}
	return r.Errors()
}

func keepResources(now, was []corev1.Container) {
	if len(now) != len(was) {
		return
	}
	for i := range now {
		now[i].Resources = was[i].Resources
	}
}

func cronJobName(name string, prefix bool) []string {
	msgs := apivalidation.NameIsDNSSubdomain(name, prefix)
	if len(name) > 52 { // the jobs' names get eleven characters more
		msgs = append(msgs, "must be no more than 52 characters")
	}
	return msgs
}

func validateCronJob(_ context.Context, c *v1.CronJob) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &c.Spec
	at := path.Child("schedule")
	if r.Required(at, s.Schedule != "", "") {
		if strings.Contains(s.Schedule, "TZ") {
			r.Invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
		} else if err := parseSchedule(s.Schedule); err != nil {
			r.Invalid(at, s.Schedule, err.Error())
		}
	}
	if z := s.TimeZone; z != nil {
		at := path.Child("timeZone")
		switch _, err := time.LoadLocation(*z); {
		case *z == "":
			r.Invalid(at, *z, "timeZone must be nil or non-empty string")
		case strings.EqualFold(*z, "Local"):
			r.Invalid(at, *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
		case err != nil:
			r.Invalid(at, *z, err.Error())
		}
	}
	if s.StartingDeadlineSeconds != nil {
		r.NotNegative(path.Child("startingDeadlineSeconds"), *s.StartingDeadlineSeconds)
	}
	rule.OneOf(r, path.Child("concurrencyPolicy"), s.ConcurrencyPolicy, v1.AllowConcurrent, v1.ForbidConcurrent, v1.ReplaceConcurrent)
	for _, n := range []struct {
		name  string
		value *int32
	}{{"successfulJobsHistoryLimit", s.SuccessfulJobsHistoryLimit}, {"failedJobsHistoryLimit", s.FailedJobsHistoryLimit}} {
		if n.value != nil {
			r.NotNegative(path.Child(n.name), int64(*n.value))
		}
	}
	template := path.Child("jobTemplate", "spec")
	jobSpec(r, template, &s.JobTemplate.Spec)
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		r.Add(field.NotSupported(template.Child("manualSelector"), "true", []string{"nil", "false"}))
	}
	return r.Errors()
}

// parseSchedule also catches what the parser does not take well.
func parseSchedule(text string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not a schedule: %v", p)
		}
	}()
	_, err = cron.ParseStandard(text)
	return err
}
