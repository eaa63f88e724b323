// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validatePod(_ context.Context, p *v1.Pod) field.ErrorList {
	r := &rule.Report{}
	podspec.Validate(r, field.NewPath("spec"), &p.Spec, &p.ObjectMeta)
	if p.ResourceVersion == "" { // in the making
		podspec.ValidatePodCreate(r, p)
	}
	_, mirror := p.Annotations[v1.MirrorPodAnnotationKey]
	if mirror {
		r.Required(field.NewPath("spec", "nodeName"), p.Spec.NodeName != "", "must set spec.nodeName if mirror pod annotation is set")
	}
	return r.Errors()
}

func validatePodUpdate(_ context.Context, p, old *v1.Pod) field.ErrorList {
	r := &rule.Report{}
	podspec.ValidatePodUpdate(r, p, old)
	r.Same(field.NewPath("metadata", "annotations").Key(v1.MirrorPodAnnotationKey), p.Annotations[v1.MirrorPodAnnotationKey],
		old.Annotations[v1.MirrorPodAnnotationKey])
	return r.Errors()
}

func validatePodStatus(_ context.Context, p, old *v1.Pod) field.ErrorList {
	r := &rule.Report{}
	podspec.ValidateStatus(r, p, old)
	return r.Errors()
}

func validatePodTemplate(_ context.Context, t *v1.PodTemplate) field.ErrorList {
	r := &rule.Report{}
	podspec.ValidateTemplate(r, field.NewPath("template"), &t.Template)
	return r.Errors()
}

func validateReplicationController(_ context.Context, rc *v1.ReplicationController) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	r.Required(path.Child("selector"), len(rc.Spec.Selector) > 0, "")
	if r.Required(path.Child("replicas"), rc.Spec.Replicas != nil, "") {
		r.NotNegative(path.Child("replicas"), int64(*rc.Spec.Replicas))
	}
	r.NotNegative(path.Child("minReadySeconds"), int64(rc.Spec.MinReadySeconds))
	t := rc.Spec.Template
	if !r.Required(path.Child("template"), t != nil, "") {
		return r.Errors()
	}
	for k, v := range rc.Spec.Selector {
		if t.Labels[k] != v {
			r.Invalid(path.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
			break
		}
	}
	podspec.ValidateTemplate(r, path.Child("template"), t)
	at := path.Child("template", "spec")
	if t.Spec.RestartPolicy != v1.RestartPolicyAlways {
		r.Add(field.NotSupported(at.Child("restartPolicy"), t.Spec.RestartPolicy, []v1.RestartPolicy{v1.RestartPolicyAlways}))
	}
	r.Forbidden(at.Child("activeDeadlineSeconds"), t.Spec.ActiveDeadlineSeconds != nil, "activeDeadlineSeconds in ReplicationController is not Supported")
	return r.Errors()
}

func validateReplicationControllerStatus(_ context.Context, rc, _ *v1.ReplicationController) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("status"), &rc.Status
	for _, n := range []struct {
		name  string
		value int32
	}{{"replicas", s.Replicas}, {"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}} {
		r.NotNegative(path.Child(n.name), int64(n.value))
		if n.value > s.Replicas {
			r.Invalid(path.Child(n.name), n.value, "cannot be greater than status.replicas")
		}
	}
	r.NotNegative(path.Child("observedGeneration"), s.ObservedGeneration)
	if s.AvailableReplicas > s.ReadyReplicas {
		r.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas")
	}
	return r.Errors()
}
