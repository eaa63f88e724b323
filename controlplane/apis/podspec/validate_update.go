// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"slices"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

const mutable = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)," +
	"`spec.schedulingGates` (only removals)"

// ValidatePodUpdate reports changes that a pod, once created, does not go through. While scheduling gates hold it back, what selects its nodes may
// still be narrowed.
func ValidatePodUpdate(r *rule.Report, pod, old *v1.Pod) {
	path := field.NewPath("spec")
	spec, was := &pod.Spec, &old.Spec

	deadline(r, path.Child("activeDeadlineSeconds"), spec.ActiveDeadlineSeconds, was.ActiveDeadlineSeconds)
	tolerations(r, path.Child("tolerations"), spec.Tolerations, was.Tolerations)
	gates(r, path.Child("schedulingGates"), spec.SchedulingGates, was.SchedulingGates)

	// Undo every permitted change; what is left must be equal.
	rest := spec.DeepCopy()
	if len(rest.Containers) != len(was.Containers) {
		r.Forbidden(path.Child("containers"), true, "pod updates may not add or remove containers")
		return
	}
	if len(rest.InitContainers) != len(was.InitContainers) {
		r.Forbidden(path.Child("initContainers"), true, "pod updates may not add or remove containers")
		return
	}
	for i := range rest.Containers {
		rest.Containers[i].Image = was.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = was.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = was.ActiveDeadlineSeconds
	rest.Tolerations = was.Tolerations
	rest.SchedulingGates = was.SchedulingGates
	if g := was.TerminationGracePeriodSeconds; g != nil && *g < 0 && rest.TerminationGracePeriodSeconds != nil && *rest.TerminationGracePeriodSeconds == 1 {
		rest.TerminationGracePeriodSeconds = g
	}
	if len(was.SchedulingGates) > 0 {
		if narrowed(rest.NodeSelector, was.NodeSelector) {
			rest.NodeSelector = was.NodeSelector
		}
		gatedAffinity(r, path.Child("affinity", "nodeAffinity"), rest, was)
	}
	if !equality.Semantic.DeepEqual(rest, was) {
		r.Forbidden(path, true, mutable+"\n"+cmp.Diff(was, rest))
	}
}

// deadline may be set once and brought forward, not put off or lifted.
func deadline(r *rule.Report, at *field.Path, now, was *int64) {
	switch {
	case now != nil:
		if was != nil && *now > *was {
			r.Invalid(at, *now, "must be less than or equal to previous value")
		}
	case was != nil:
		r.Invalid(at, now, "must not update from a positive integer to nil value")
	}
}

// tolerations may be added; of those there are, only tolerationSeconds may change.
func tolerations(r *rule.Report, at *field.Path, now, was []v1.Toleration) {
	for _, w := range was {
		kept := slices.ContainsFunc(now, func(t v1.Toleration) bool {
			if t.Effect == v1.TaintEffectNoExecute {
				t.TolerationSeconds, w.TolerationSeconds = nil, nil
			}
			return equality.Semantic.DeepEqual(t, w)
		})
		if !kept {
			r.Forbidden(at, true, "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
}

func gates(r *rule.Report, at *field.Path, now, was []v1.PodSchedulingGate) {
	for i, g := range now {
		if !slices.Contains(was, g) {
			r.Forbidden(at.Index(i).Child("name"), true, "only deletion is allowed, but found new scheduling gate '"+g.Name+"'")
		}
	}
}

// narrowed tells whether now has all of was: fewer nodes match, never others.
func narrowed(now, was map[string]string) bool {
	for k, v := range was {
		if got, ok := now[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// gatedAffinity permits requirements to be added to each term, and a first set of terms, and any change of what is only preferred.
func gatedAffinity(r *rule.Report, at *field.Path, rest, was *v1.PodSpec) {
	get := func(s *v1.PodSpec) *v1.NodeAffinity {
		if s.Affinity == nil {
			return nil
		}
		return s.Affinity.NodeAffinity
	}
	now, before := get(rest), get(was)
	if before != nil && before.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		at := at.Child("requiredDuringSchedulingIgnoredDuringExecution")
		if now == nil || now.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			r.Invalid(at, nil, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
			return
		}
		terms, had := now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, before.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		if len(had) > 0 && len(terms) != len(had) {
			r.Invalid(at.Child("nodeSelectorTerms"), terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
			return
		}
		for i := range had {
			if !startsWith(terms[i].MatchExpressions, had[i].MatchExpressions) || !startsWith(terms[i].MatchFields, had[i].MatchFields) {
				r.Invalid(at.Child("nodeSelectorTerms").Index(i), terms[i], "only additions are allowed (no mutations or deletions)")
				return
			}
			if len(had[i].MatchExpressions)+len(had[i].MatchFields) == 0 && len(terms[i].MatchExpressions)+len(terms[i].MatchFields) > 0 {
				r.Invalid(at.Child("nodeSelectorTerms").Index(i), terms[i], "an empty term selects no node and cannot be added to")
				return
			}
		}
	}
	// Permitted: compare the rest without it.
	switch {
	case rest.Affinity == nil:
		rest.Affinity = was.Affinity
	case was.Affinity == nil:
		if rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil {
			rest.Affinity = nil
		} else {
			rest.Affinity.NodeAffinity = nil
		}
	default:
		rest.Affinity.NodeAffinity = was.Affinity.NodeAffinity
	}
}

func startsWith(now, was []v1.NodeSelectorRequirement) bool {
	return len(now) >= len(was) && equality.Semantic.DeepEqual(now[:len(was)], was)
}

// ValidatePodCreate reports what only a running pod may have.
func ValidatePodCreate(r *rule.Report, pod *v1.Pod) {
	r.Forbidden(field.NewPath("spec", "ephemeralContainers"), len(pod.Spec.EphemeralContainers) > 0, "cannot be set on create")
}

// ValidateEphemeralContainersUpdate reports changes by pods/ephemeralcontainers other than additions.
func ValidateEphemeralContainersUpdate(pod, old *v1.Pod) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec", "ephemeralContainers")
	Validate(r, field.NewPath("spec"), &pod.Spec, &pod.ObjectMeta)
	now := map[string]*v1.EphemeralContainer{}
	for i := range pod.Spec.EphemeralContainers {
		now[pod.Spec.EphemeralContainers[i].Name] = &pod.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		had := &old.Spec.EphemeralContainers[i]
		got, ok := now[had.Name]
		switch {
		case !ok:
			r.Forbidden(path, true, "existing ephemeral containers "+had.Name+" may not be removed")
		case !equality.Semantic.DeepEqual(got, had):
			r.Forbidden(path, true, "existing ephemeral containers "+had.Name+" may not be changed")
		}
	}
	return r.Errors()
}
