// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"
	"slices"

	v1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateDaemonSet(_ context.Context, d *v1.DaemonSet) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &d.Spec
	selected(r, path, s.Selector, &s.Template)
	alwaysRestarted(r, path, &s.Template, "DaemonSet")
	r.NotNegative(path.Child("minReadySeconds"), int64(s.MinReadySeconds))
	optional(r, path.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)

	at := path.Child("updateStrategy")
	rule.OneOf(r, at.Child("type"), s.UpdateStrategy.Type, v1.RollingUpdateDaemonSetStrategyType, v1.OnDeleteDaemonSetStrategyType)
	if s.UpdateStrategy.Type != v1.RollingUpdateDaemonSetStrategyType {
		return r.Errors()
	}
	at = at.Child("rollingUpdate")
	u := s.UpdateStrategy.RollingUpdate
	if !r.Required(at, u != nil, "") {
		return r.Errors()
	}
	for _, n := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"maxUnavailable", u.MaxUnavailable}, {"maxSurge", u.MaxSurge}} {
		if n.value != nil {
			r.Amount(at.Child(n.name), *n.value)
			r.AtMostAll(at.Child(n.name), *n.value)
		}
	}
	surge, unavailable := !rule.IsZero(u.MaxSurge), !rule.IsZero(u.MaxUnavailable)
	if surge && unavailable {
		r.Invalid(at.Child("maxSurge"), u.MaxSurge, "may not be set when maxUnavailable is non-zero")
	}
	r.Required(at.Child("maxUnavailable"), surge || unavailable, "cannot be 0 when maxSurge is 0")
	// A second pod beside the first cannot bind the same port of the node.
	if surge {
		for i, c := range s.Template.Spec.Containers {
			for j, p := range c.Ports {
				r.Forbidden(path.Child("template", "spec", "containers").Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort != 0,
					"may not be set when `maxSurge` is non-zero")
			}
		}
	}
	return r.Errors()
}

func validateDaemonSetUpdate(_ context.Context, d, old *v1.DaemonSet) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)
	return r.Errors()
}

func validateDaemonSetStatus(_ context.Context, d, old *v1.DaemonSet) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &d.Status
	for _, n := range []rule.Count{
		{Name: "currentNumberScheduled", N: st.CurrentNumberScheduled}, {Name: "numberMisscheduled", N: st.NumberMisscheduled},
		{Name: "desiredNumberScheduled", N: st.DesiredNumberScheduled}, {Name: "numberReady", N: st.NumberReady},
		{Name: "updatedNumberScheduled", N: st.UpdatedNumberScheduled}, {Name: "numberAvailable", N: st.NumberAvailable},
		{Name: "numberUnavailable", N: st.NumberUnavailable},
	} {
		r.NotNegative(path.Child(n.Name), int64(n.N))
	}
	r.NotNegative(path.Child("observedGeneration"), st.ObservedGeneration)
	collisions(r, path, st.CollisionCount, old.Status.CollisionCount)
	return r.Errors()
}

// statefulSetName leaves room for the ordinal: the pods' hostnames are labels.
func statefulSetName(name string, prefix bool) []string {
	return apivalidation.NameIsDNSLabel(name, prefix)
}

func validateStatefulSet(_ context.Context, set *v1.StatefulSet) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &set.Spec
	optional(r, path.Child("replicas"), s.Replicas)
	optional(r, path.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	r.NotNegative(path.Child("minReadySeconds"), int64(s.MinReadySeconds))
	selected(r, path, s.Selector, withClaims(s))
	alwaysRestarted(r, path, &s.Template, "StatefulSet")
	r.Optional(path.Child("serviceName"), s.ServiceName, func(n string) []string { return apivalidation.NameIsDNS1035Label(n, false) })
	rule.OneOf(r, path.Child("podManagementPolicy"), s.PodManagementPolicy, v1.OrderedReadyPodManagement, v1.ParallelPodManagement)
	if s.Ordinals != nil {
		r.NotNegative(path.Child("ordinals", "start"), int64(s.Ordinals.Start))
	}
	at := path.Child("updateStrategy")
	rule.OneOf(r, at.Child("type"), s.UpdateStrategy.Type, v1.RollingUpdateStatefulSetStrategyType, v1.OnDeleteStatefulSetStrategyType)
	if u := s.UpdateStrategy.RollingUpdate; u != nil {
		at := at.Child("rollingUpdate")
		if s.UpdateStrategy.Type == v1.OnDeleteStatefulSetStrategyType {
			r.Invalid(at, u, "only allowed for updateStrategy '"+string(v1.RollingUpdateStatefulSetStrategyType)+"'")
		}
		if u.Partition != nil {
			r.NotNegative(at.Child("partition"), int64(*u.Partition))
		}
		if u.MaxUnavailable != nil {
			r.Amount(at.Child("maxUnavailable"), *u.MaxUnavailable)
			r.AtMostAll(at.Child("maxUnavailable"), *u.MaxUnavailable)
			if rule.IsZero(u.MaxUnavailable) {
				r.Invalid(at.Child("maxUnavailable"), u.MaxUnavailable.String(), "cannot be 0")
			}
		}
	}
	if p := s.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := path.Child("persistentVolumeClaimRetentionPolicy")
		rule.OneOf(r, at.Child("whenDeleted"), p.WhenDeleted, v1.RetainPersistentVolumeClaimRetentionPolicyType, v1.DeletePersistentVolumeClaimRetentionPolicyType)
		rule.OneOf(r, at.Child("whenScaled"), p.WhenScaled, v1.RetainPersistentVolumeClaimRetentionPolicyType, v1.DeletePersistentVolumeClaimRetentionPolicyType)
	}
	for i := range s.VolumeClaimTemplates {
		c, at := &s.VolumeClaimTemplates[i], path.Child("volumeClaimTemplates").Index(i)
		r.Name(at.Child("metadata", "name"), c.Name, validation.IsDNS1123Subdomain)
		podspec.Claim(r, at.Child("spec"), &c.Spec)
	}
	return r.Errors()
}

// withClaims returns the template as its pods will be: each claim is a volume, in place of the template's own of that name.
func withClaims(s *v1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := s.Template
	t.Spec.Volumes = slices.Clone(t.Spec.Volumes)
	for _, c := range s.VolumeClaimTemplates {
		volume := corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name},
		}}
		if i := slices.IndexFunc(t.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == c.Name }); i >= 0 {
			t.Spec.Volumes[i] = volume
		} else {
			t.Spec.Volumes = append(t.Spec.Volumes, volume)
		}
	}
	return &t
}

func validateStatefulSetUpdate(_ context.Context, s, old *v1.StatefulSet) field.ErrorList {
	r := &rule.Report{}
	rest, was := s.Spec.DeepCopy(), &old.Spec
	rest.Replicas = was.Replicas
	rest.Template = was.Template
	rest.UpdateStrategy = was.UpdateStrategy
	rest.MinReadySeconds = was.MinReadySeconds
	rest.Ordinals = was.Ordinals
	rest.RevisionHistoryLimit = was.RevisionHistoryLimit
	rest.PersistentVolumeClaimRetentionPolicy = was.PersistentVolumeClaimRetentionPolicy
	r.Forbidden(field.NewPath("spec"), !equality.Semantic.DeepEqual(rest, was),
		"updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "+
			"'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")
	return r.Errors()
}

func validateStatefulSetStatus(_ context.Context, s, old *v1.StatefulSet) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &s.Status
	r.Counts(path, rule.Count{Name: "replicas", N: st.Replicas}, rule.Count{Name: "readyReplicas", N: st.ReadyReplicas},
		rule.Count{Name: "currentReplicas", N: st.CurrentReplicas}, rule.Count{Name: "updatedReplicas", N: st.UpdatedReplicas},
		rule.Count{Name: "availableReplicas", N: st.AvailableReplicas})
	r.NotNegative(path.Child("observedGeneration"), st.ObservedGeneration)
	if st.AvailableReplicas > st.ReadyReplicas {
		r.Invalid(path.Child("availableReplicas"), st.AvailableReplicas, "cannot be greater than status.readyReplicas")
	}
	collisions(r, path, st.CollisionCount, old.Status.CollisionCount)
	return r.Errors()
}
