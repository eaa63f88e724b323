// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/autoscaling/v1"
	v2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// The annotations in which v1 carries what only v2 has fields for.
const (
	metricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	statusesAnnotation   = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
)

// toStored turns a v1 object into v2. An annotation that does not parse is ignored, as its content is then not ours.
func toStored(in *v1.HorizontalPodAutoscaler) (resource.Object, error) {
	in = in.DeepCopy()
	out := &v2.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Spec.ScaleTargetRef = v2.CrossVersionObjectReference(in.Spec.ScaleTargetRef)
	out.Spec.MinReplicas = in.Spec.MinReplicas
	out.Spec.MaxReplicas = in.Spec.MaxReplicas
	out.Status.ObservedGeneration = in.Status.ObservedGeneration
	out.Status.LastScaleTime = in.Status.LastScaleTime
	out.Status.CurrentReplicas = in.Status.CurrentReplicas
	out.Status.DesiredReplicas = in.Status.DesiredReplicas

	var specs []v1.MetricSpec
	if take(out, metricsAnnotation, &specs) {
		for i := range specs {
			out.Spec.Metrics = append(out.Spec.Metrics, specToV2(&specs[i]))
		}
	}
	if cpu := in.Spec.TargetCPUUtilizationPercentage; cpu != nil {
		out.Spec.Metrics = append([]v2.MetricSpec{{
			Type: v2.ResourceMetricSourceType,
			Resource: &v2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: v2.MetricTarget{Type: v2.UtilizationMetricType, AverageUtilization: cpu},
			},
		}}, out.Spec.Metrics...)
	}
	var statuses []v1.MetricStatus
	if take(out, statusesAnnotation, &statuses) {
		for i := range statuses {
			out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, statusToV2(&statuses[i]))
		}
	} else if cpu := in.Status.CurrentCPUUtilizationPercentage; cpu != nil {
		out.Status.CurrentMetrics = []v2.MetricStatus{{
			Type:     v2.ResourceMetricSourceType,
			Resource: &v2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: v2.MetricValueStatus{AverageUtilization: cpu}},
		}}
	}
	var conditions []v1.HorizontalPodAutoscalerCondition
	if take(out, conditionsAnnotation, &conditions) {
		for _, c := range conditions {
			out.Status.Conditions = append(out.Status.Conditions, v2.HorizontalPodAutoscalerCondition{
				Type: v2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
				Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration,
			})
		}
	}
	var behavior v2.HorizontalPodAutoscalerBehavior
	if take(out, behaviorAnnotation, &behavior) {
		out.Spec.Behavior = &behavior
	}
	if len(out.Annotations) == 0 {
		out.Annotations = nil
	}
	return out, nil
}

// fromStored turns a stored v2 object into v1.
func fromStored(obj resource.Object) (*v1.HorizontalPodAutoscaler, error) {
	in, ok := obj.(*v2.HorizontalPodAutoscaler)
	if !ok {
		return nil, fmt.Errorf("read a stored HorizontalPodAutoscaler as autoscaling/v1: got %T", obj)
	}
	in = in.DeepCopy()
	out := &v1.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Spec.ScaleTargetRef = v1.CrossVersionObjectReference(in.Spec.ScaleTargetRef)
	out.Spec.MinReplicas = in.Spec.MinReplicas
	out.Spec.MaxReplicas = in.Spec.MaxReplicas
	out.Status.ObservedGeneration = in.Status.ObservedGeneration
	out.Status.LastScaleTime = in.Status.LastScaleTime
	out.Status.CurrentReplicas = in.Status.CurrentReplicas
	out.Status.DesiredReplicas = in.Status.DesiredReplicas

	var specs []v1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if r := m.Resource; out.Spec.TargetCPUUtilizationPercentage == nil && m.Type == v2.ResourceMetricSourceType && r != nil &&
			r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil {
			out.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		specs = append(specs, specFromV2(m))
	}
	var statuses []v1.MetricStatus
	for i := range in.Status.CurrentMetrics {
		m := &in.Status.CurrentMetrics[i]
		statuses = append(statuses, statusFromV2(m))
		if r := m.Resource; m.Type == v2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
	}
	var conditions []v1.HorizontalPodAutoscalerCondition
	for _, c := range in.Status.Conditions {
		conditions = append(conditions, v1.HorizontalPodAutoscalerCondition{
			Type: v1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration,
		})
	}
	for _, put := range []struct {
		annotation string
		present    bool
		value      any
	}{
		{metricsAnnotation, len(specs) > 0, specs},
		{statusesAnnotation, len(statuses) > 0, statuses},
		{conditionsAnnotation, len(conditions) > 0, conditions},
		{behaviorAnnotation, in.Spec.Behavior != nil, in.Spec.Behavior},
	} {
		if !put.present {
			continue
		}
		text, err := json.Marshal(put.value)
		if err != nil {
			return nil, fmt.Errorf("write annotation %s of HorizontalPodAutoscaler %s/%s: %w", put.annotation, in.Namespace, in.Name, err)
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[put.annotation] = string(text)
	}
	return out, nil
}

// take removes the annotation from h and parses it into into; false when it is absent or no JSON of that form.
func take(h *v2.HorizontalPodAutoscaler, annotation string, into any) bool {
	text, ok := h.Annotations[annotation]
	if !ok {
		return false
	}
	delete(h.Annotations, annotation)
	return json.Unmarshal([]byte(text), into) == nil
}
