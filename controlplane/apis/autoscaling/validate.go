// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"context"

	v2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

const longestPeriod, longestWindow = 1800, 3600 // seconds

func validateHPA(_ context.Context, h *v2.HorizontalPodAutoscaler) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &h.Spec
	reference(r, path.Child("scaleTargetRef"), s.ScaleTargetRef)
	r.Positive(path.Child("maxReplicas"), int64(s.MaxReplicas))
	fewest := int32(1)
	if s.MinReplicas != nil {
		fewest = *s.MinReplicas
		at := path.Child("minReplicas")
		r.NotNegative(at, int64(fewest))
		if fewest == 0 && !outsideMetric(s.Metrics) {
			r.Forbidden(at, true, "must specify at least one Object or External metric to support scaling to zero replicas")
		}
	}
	if s.MaxReplicas < fewest {
		r.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	for i := range s.Metrics {
		metric(r, path.Child("metrics").Index(i), &s.Metrics[i])
	}
	if b := s.Behavior; b != nil {
		rules(r, path.Child("behavior", "scaleUp"), b.ScaleUp)
		rules(r, path.Child("behavior", "scaleDown"), b.ScaleDown)
	}
	return r.Errors()
}

// outsideMetric: with no pod left, only metrics that do not come from pods can bring some back.
func outsideMetric(list []v2.MetricSpec) bool {
	for _, m := range list {
		if m.Type == v2.ObjectMetricSourceType || m.Type == v2.ExternalMetricSourceType {
			return true
		}
	}
	return false
}

func segment(s string) []string {
	for _, c := range s {
		if c == '/' || c == '%' {
			return []string{"may not contain '/' or '%'"}
		}
	}
	if s == "." || s == ".." {
		return []string{"may not be '" + s + "'"}
	}
	return nil
}

func reference(r *rule.Report, at *field.Path, ref v2.CrossVersionObjectReference) {
	r.Name(at.Child("kind"), ref.Kind, segment)
	r.Name(at.Child("name"), ref.Name, segment)
}

func metric(r *rule.Report, at *field.Path, m *v2.MetricSpec) {
	rule.OneOf(r, at.Child("type"), m.Type, v2.ObjectMetricSourceType, v2.PodsMetricSourceType, v2.ResourceMetricSourceType,
		v2.ContainerResourceMetricSourceType, v2.ExternalMetricSourceType)
	for _, x := range []struct {
		kind v2.MetricSourceType
		name string
		set  bool
	}{
		{v2.ObjectMetricSourceType, "object", m.Object != nil}, {v2.PodsMetricSourceType, "pods", m.Pods != nil},
		{v2.ResourceMetricSourceType, "resource", m.Resource != nil}, {v2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil},
		{v2.ExternalMetricSourceType, "external", m.External != nil},
	} {
		if x.kind == m.Type {
			r.Required(at.Child(x.name), x.set, "must populate information for the given metric source")
		} else {
			r.Forbidden(at.Child(x.name), x.set, "must populate the given metric source only")
		}
	}
	if s := m.Object; s != nil {
		at := at.Child("object")
		reference(r, at.Child("describedObject"), s.DescribedObject)
		identifier(r, at.Child("metric"), s.Metric)
		metricTarget(r, at.Child("target"), s.Target)
		if s.Target.Value == nil && s.Target.AverageValue == nil {
			r.Required(at.Child("target", "averageValue"), false, "must set either a target value or averageValue")
		}
	}
	if s := m.External; s != nil {
		at := at.Child("external")
		identifier(r, at.Child("metric"), s.Metric)
		metricTarget(r, at.Child("target"), s.Target)
		if s.Target.Value == nil && s.Target.AverageValue == nil {
			r.Required(at.Child("target", "averageValue"), false, "must set either a target value for metric or a per-pod target")
		}
		r.Forbidden(at.Child("target", "value"), s.Target.Value != nil && s.Target.AverageValue != nil,
			"may not set both a target value for metric and a per-pod target")
	}
	if s := m.Pods; s != nil {
		at := at.Child("pods")
		identifier(r, at.Child("metric"), s.Metric)
		metricTarget(r, at.Child("target"), s.Target)
		if r.Required(at.Child("target", "averageValue"), s.Target.AverageValue != nil, "must specify a positive target averageValue") &&
			s.Target.AverageValue.Sign() <= 0 {
			r.Invalid(at.Child("target", "averageValue"), s.Target.AverageValue.String(), "must be positive")
		}
	}
	if s := m.Resource; s != nil {
		usage(r, at.Child("resource"), s.Name, s.Target)
	}
	if s := m.ContainerResource; s != nil {
		at := at.Child("containerResource")
		usage(r, at, s.Name, s.Target)
		r.Name(at.Child("container"), s.Container, validation.IsDNS1123Label)
	}
}

func usage(r *rule.Report, at *field.Path, name corev1.ResourceName, t v2.MetricTarget) {
	if r.Required(at.Child("name"), name != "", "must specify a resource name") {
		podspec.ResourceName(r, at.Child("name"), name, func(n corev1.ResourceName) bool {
			return n == corev1.ResourceCPU || n == corev1.ResourceMemory || n == corev1.ResourceEphemeralStorage || n == corev1.ResourceStorage
		})
	}
	metricTarget(r, at.Child("target"), t)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		r.Required(at.Child("target", "averageUtilization"), false, "must set either a target raw value or a target utilization")
	}
	r.Forbidden(at.Child("target", "averageValue"), t.AverageUtilization != nil && t.AverageValue != nil,
		"may not set both a target raw value and a target utilization")
}

func identifier(r *rule.Report, at *field.Path, m v2.MetricIdentifier) {
	r.Name(at.Child("name"), m.Name, segment)
	r.Selector(at.Child("selector"), m.Selector)
}

func metricTarget(r *rule.Report, at *field.Path, t v2.MetricTarget) {
	rule.OneOf(r, at.Child("type"), t.Type, v2.UtilizationMetricType, v2.ValueMetricType, v2.AverageValueMetricType)
	if t.Value != nil && t.Value.Sign() <= 0 {
		r.Invalid(at.Child("value"), t.Value.String(), "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() <= 0 {
		r.Invalid(at.Child("averageValue"), t.AverageValue.String(), "must be positive")
	}
	if t.AverageUtilization != nil {
		r.Positive(at.Child("averageUtilization"), int64(*t.AverageUtilization))
	}
}

func rules(r *rule.Report, at *field.Path, x *v2.HPAScalingRules) {
	if x == nil {
		return
	}
	if n := x.StabilizationWindowSeconds; n != nil {
		r.Between(at.Child("stabilizationWindowSeconds"), int64(*n), 0, longestWindow)
	}
	rule.OneOfOptional(r, at.Child("selectPolicy"), x.SelectPolicy, v2.MaxChangePolicySelect, v2.MinChangePolicySelect, v2.DisabledPolicySelect)
	r.Required(at.Child("policies"), len(x.Policies) > 0, "must specify at least one Policy")
	for i, p := range x.Policies {
		at := at.Child("policies").Index(i)
		rule.OneOf(r, at.Child("type"), p.Type, v2.PodsScalingPolicy, v2.PercentScalingPolicy)
		r.Positive(at.Child("value"), int64(p.Value))
		r.Between(at.Child("periodSeconds"), int64(p.PeriodSeconds), 1, longestPeriod)
	}
	if x.Tolerance != nil && x.Tolerance.Sign() < 0 {
		r.Invalid(at.Child("tolerance"), x.Tolerance.String(), "must be greater or equal to zero")
	}
}

func validateHPAStatus(_ context.Context, h, _ *v2.HorizontalPodAutoscaler) field.ErrorList {
	r := &rule.Report{}
	r.NotNegative(field.NewPath("status", "currentReplicas"), int64(h.Status.CurrentReplicas))
	r.NotNegative(field.NewPath("status", "desiredReplicas"), int64(h.Status.DesiredReplicas))
	return r.Errors()
}
