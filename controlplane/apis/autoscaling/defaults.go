// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	v1 "k8s.io/api/autoscaling/v1"
	v2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

func defaultV1(h *v1.HorizontalPodAutoscaler) {
	if h.Spec.MinReplicas == nil {
		h.Spec.MinReplicas = new(int32(1))
	}
}

// defaultHPA aims at 80% of the requested CPU where no metric is named, and completes a behavior that is given in part.
func defaultHPA(h *v2.HorizontalPodAutoscaler) {
	if h.Spec.MinReplicas == nil {
		h.Spec.MinReplicas = new(int32(1))
	}
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []v2.MetricSpec{{
			Type: v2.ResourceMetricSourceType,
			Resource: &v2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: v2.MetricTarget{Type: v2.UtilizationMetricType, AverageUtilization: new(int32(80))},
			},
		}}
	}
	b := h.Spec.Behavior
	if b == nil {
		return
	}
	// Up: at once, by 4 pods or 100% in 15 s, whichever is more. Down: after the controller's own window, by up to 100% in 15 s.
	if b.ScaleUp == nil {
		b.ScaleUp = &v2.HPAScalingRules{}
	}
	if b.ScaleUp.StabilizationWindowSeconds == nil {
		b.ScaleUp.StabilizationWindowSeconds = new(int32(0))
	}
	defaultRules(b.ScaleUp, v2.HPAScalingPolicy{Type: v2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		v2.HPAScalingPolicy{Type: v2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	if b.ScaleDown == nil {
		b.ScaleDown = &v2.HPAScalingRules{}
	}
	defaultRules(b.ScaleDown, v2.HPAScalingPolicy{Type: v2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

func defaultRules(r *v2.HPAScalingRules, policies ...v2.HPAScalingPolicy) {
	if r.SelectPolicy == nil {
		r.SelectPolicy = new(v2.MaxChangePolicySelect)
	}
	if r.Policies == nil {
		r.Policies = policies
	}
}
