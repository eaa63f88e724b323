// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"

	v1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// selected reports a selector that is missing, selects everything, or does not select the template's pods: such a workload would make pods for ever.
func selected(r *rule.Report, path *field.Path, s *metav1.LabelSelector, t *corev1.PodTemplateSpec) {
	at := path.Child("selector")
	if r.Required(at, s != nil, "") {
		r.Selector(at, s)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			r.Invalid(at, s, "empty selector is invalid")
		} else if parsed, err := metav1.LabelSelectorAsSelector(s); err != nil {
			r.Invalid(at, s, "invalid label selector: "+err.Error())
		} else if !parsed.Matches(labels.Set(t.Labels)) {
			r.Invalid(path.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
		}
	}
	podspec.ValidateTemplate(r, path.Child("template"), t)
}

// alwaysRestarted reports a template whose pods could end.
func alwaysRestarted(r *rule.Report, path *field.Path, t *corev1.PodTemplateSpec, kind string) {
	at := path.Child("template", "spec")
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		r.Add(field.NotSupported(at.Child("restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	r.Forbidden(at.Child("activeDeadlineSeconds"), t.Spec.ActiveDeadlineSeconds != nil, "activeDeadlineSeconds in "+kind+" is not Supported")
}

func optional(r *rule.Report, at *field.Path, n *int32) {
	if n != nil {
		r.NotNegative(at, int64(*n))
	}
}

func validateReplicaSet(_ context.Context, s *v1.ReplicaSet) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	optional(r, path.Child("replicas"), s.Spec.Replicas)
	r.NotNegative(path.Child("minReadySeconds"), int64(s.Spec.MinReadySeconds))
	selected(r, path, s.Spec.Selector, &s.Spec.Template)
	alwaysRestarted(r, path, &s.Spec.Template, "ReplicaSet")
	return r.Errors()
}

func validateReplicaSetUpdate(_ context.Context, s, old *v1.ReplicaSet) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec", "selector"), s.Spec.Selector, old.Spec.Selector)
	return r.Errors()
}

func validateReplicaSetStatus(_ context.Context, s, _ *v1.ReplicaSet) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &s.Status
	r.Counts(path, rule.Count{Name: "replicas", N: st.Replicas}, rule.Count{Name: "fullyLabeledReplicas", N: st.FullyLabeledReplicas},
		rule.Count{Name: "readyReplicas", N: st.ReadyReplicas}, rule.Count{Name: "availableReplicas", N: st.AvailableReplicas})
	optional(r, path.Child("terminatingReplicas"), st.TerminatingReplicas)
	r.NotNegative(path.Child("observedGeneration"), st.ObservedGeneration)
	if st.AvailableReplicas > st.ReadyReplicas {
		r.Invalid(path.Child("availableReplicas"), st.AvailableReplicas, "cannot be greater than readyReplicas")
	}
	return r.Errors()
}

func validateDeployment(_ context.Context, d *v1.Deployment) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &d.Spec
	optional(r, path.Child("replicas"), s.Replicas)
	optional(r, path.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	r.NotNegative(path.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if n := s.ProgressDeadlineSeconds; n != nil {
		at := path.Child("progressDeadlineSeconds")
		r.NotNegative(at, int64(*n))
		if *n <= s.MinReadySeconds {
			r.Invalid(at, *n, "must be greater than minReadySeconds")
		}
	}
	selected(r, path, s.Selector, &s.Template)
	alwaysRestarted(r, path, &s.Template, "Deployment")

	at := path.Child("strategy")
	rule.OneOf(r, at.Child("type"), s.Strategy.Type, v1.RecreateDeploymentStrategyType, v1.RollingUpdateDeploymentStrategyType)
	u := s.Strategy.RollingUpdate
	switch s.Strategy.Type {
	case v1.RecreateDeploymentStrategyType:
		r.Forbidden(at.Child("rollingUpdate"), u != nil, "may not be specified when strategy `type` is '"+string(s.Strategy.Type)+"'")
	case v1.RollingUpdateDeploymentStrategyType:
		at := at.Child("rollingUpdate")
		if !r.Required(at, u != nil, "this should be defaulted and never be nil") {
			break
		}
		if u.MaxUnavailable != nil {
			r.Amount(at.Child("maxUnavailable"), *u.MaxUnavailable)
			r.AtMostAll(at.Child("maxUnavailable"), *u.MaxUnavailable)
		}
		if u.MaxSurge != nil {
			r.Amount(at.Child("maxSurge"), *u.MaxSurge)
		}
		if rule.IsZero(u.MaxUnavailable) && rule.IsZero(u.MaxSurge) {
			r.Invalid(at.Child("maxUnavailable"), u.MaxUnavailable, "may not be 0 when `maxSurge` is 0")
		}
	}
	return r.Errors()
}

func validateDeploymentUpdate(_ context.Context, d, old *v1.Deployment) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)
	return r.Errors()
}

func validateDeploymentStatus(_ context.Context, d, old *v1.Deployment) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &d.Status
	r.Counts(path, rule.Count{Name: "replicas", N: st.Replicas}, rule.Count{Name: "updatedReplicas", N: st.UpdatedReplicas},
		rule.Count{Name: "readyReplicas", N: st.ReadyReplicas}, rule.Count{Name: "availableReplicas", N: st.AvailableReplicas})
	r.NotNegative(path.Child("unavailableReplicas"), int64(st.UnavailableReplicas))
	optional(r, path.Child("terminatingReplicas"), st.TerminatingReplicas)
	r.NotNegative(path.Child("observedGeneration"), st.ObservedGeneration)
	if st.AvailableReplicas > st.ReadyReplicas {
		r.Invalid(path.Child("availableReplicas"), st.AvailableReplicas, "cannot be greater than readyReplicas")
	}
	collisions(r, path, st.CollisionCount, old.Status.CollisionCount)
	return r.Errors()
}

// collisions only ever grow: names derived from a smaller count are taken.
func collisions(r *rule.Report, path *field.Path, now, was *int32) {
	at := path.Child("collisionCount")
	optional(r, at, now)
	if was != nil && (now == nil || *now < *was) {
		value := int32(0)
		if now != nil {
			value = *now
		}
		r.Invalid(at, value, "cannot be decremented")
	}
}

func validateControllerRevision(_ context.Context, c *v1.ControllerRevision) field.ErrorList {
	r := &rule.Report{}
	r.Required(field.NewPath("data"), len(c.Data.Raw) > 0 || c.Data.Object != nil, "data is mandatory")
	r.NotNegative(field.NewPath("revision"), c.Revision)
	return r.Errors()
}

func validateControllerRevisionUpdate(_ context.Context, c, old *v1.ControllerRevision) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("data"), c.Data, old.Data)
	return r.Errors()
}
