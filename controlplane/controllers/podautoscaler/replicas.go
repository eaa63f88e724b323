// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// sample is a pod's value of a metric, in thousandths.
type sample struct {
	value  int64
	at     time.Time
	window time.Duration
}

// metric asks one metric for a size.
func (s *state) metric(ctx context.Context, m *autoscalingv2.MetricSpec, current int32) (size int32, st autoscalingv2.MetricStatus, reason string, err error) {
	st.Type = m.Type
	ns := s.hpa.Namespace
	switch m.Type {
	case autoscalingv2.ResourceMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType:
		name, container, t := corev1.ResourceName(""), "", autoscalingv2.MetricTarget{}
		if reason = "FailedGetResourceMetric"; m.Resource != nil {
			name, t = m.Resource.Name, m.Resource.Target
		} else {
			reason, name, container, t = "FailedGetContainerResourceMetric", m.ContainerResource.Name, m.ContainerResource.Container, m.ContainerResource.Target
		}
		samples, err := s.metrics.resource(ctx, ns, s.selector, name, container)
		if err != nil {
			return 0, st, reason, fmt.Errorf("unable to get metric %s: %w", name, err)
		}
		size, value, err := s.byResource(samples, name, container, t, current)
		if err != nil {
			return 0, st, reason, err
		}
		if m.Resource != nil {
			st.Resource = &autoscalingv2.ResourceMetricStatus{Name: name, Current: value}
		} else {
			st.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: name, Container: container, Current: value}
		}
		return size, st, reason, nil
	case autoscalingv2.PodsMetricSourceType:
		reason = "FailedGetPodsMetric"
		metricSelector, err := selectorOf(m.Pods.Metric.Selector)
		if err != nil {
			return 0, st, reason, err
		}
		samples, err := s.metrics.pods(ns, s.selector, m.Pods.Metric.Name, metricSelector)
		if err != nil {
			return 0, st, reason, fmt.Errorf("unable to get metric %s: %w", m.Pods.Metric.Name, err)
		}
		size, average, err := s.byPods(samples, "", nil, m.Pods.Target.AverageValue.MilliValue(), current)
		st.Pods = &autoscalingv2.PodsMetricStatus{Metric: m.Pods.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(average, resource.DecimalSI)}}
		return size, st, reason, err
	case autoscalingv2.ObjectMetricSourceType:
		reason = "FailedGetObjectMetric"
		metricSelector, err := selectorOf(m.Object.Metric.Selector)
		if err != nil {
			return 0, st, reason, err
		}
		value, err := s.metrics.object(ns, &m.Object.DescribedObject, m.Object.Metric.Name, metricSelector)
		if err != nil {
			return 0, st, reason, fmt.Errorf("unable to get metric %s: %w", m.Object.Metric.Name, err)
		}
		size, now, err := s.byTotal(value, m.Object.Target, current)
		st.Object = &autoscalingv2.ObjectMetricStatus{Metric: m.Object.Metric, DescribedObject: m.Object.DescribedObject, Current: now}
		return size, st, reason, err
	case autoscalingv2.ExternalMetricSourceType:
		reason = "FailedGetExternalMetric"
		metricSelector, err := selectorOf(m.External.Metric.Selector)
		if err != nil {
			return 0, st, reason, err
		}
		value, err := s.metrics.external(ns, m.External.Metric.Name, metricSelector)
		if err != nil {
			return 0, st, reason, fmt.Errorf("unable to get external metric %s: %w", m.External.Metric.Name, err)
		}
		size, now, err := s.byTotal(value, m.External.Target, current)
		st.External = &autoscalingv2.ExternalMetricStatus{Metric: m.External.Metric, Current: now}
		return size, st, reason, err
	}
	return 0, st, "InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", m.Type)
}

func selectorOf(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// byResource sizes by a resource's average value or by its share of what pods request.
func (s *state) byResource(samples map[string]sample, name corev1.ResourceName, container string, t autoscalingv2.MetricTarget, current int32) (int32, autoscalingv2.MetricValueStatus, error) {
	if t.AverageValue != nil {
		size, average, err := s.byPods(samples, name, nil, t.AverageValue.MilliValue(), current)
		return size, autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(average, resource.DecimalSI)}, err
	}
	if t.AverageUtilization == nil {
		return 0, autoscalingv2.MetricValueStatus{}, errors.New("the target has neither an average value nor an average utilization")
	}
	pods, err := s.pods.Pods(s.hpa.Namespace).List(s.selector)
	if err != nil {
		return 0, autoscalingv2.MetricValueStatus{}, err
	}
	requests := map[string]int64{}
	for _, pod := range pods {
		n, err := request(pod, name, container)
		if err != nil {
			return 0, autoscalingv2.MetricValueStatus{}, err
		}
		requests[pod.Name] = n
	}
	size, average, err := s.byPods(samples, name, requests, int64(*t.AverageUtilization), current)
	var used, asked int64
	for pod, x := range samples {
		if r, ok := requests[pod]; ok {
			used, asked = used+x.value, asked+r
		}
	}
	st := autoscalingv2.MetricValueStatus{}
	if asked > 0 {
		st.AverageUtilization = ptr.To(int32(used * 100 / asked))
		st.AverageValue = resource.NewMilliQuantity(average, resource.DecimalSI)
	}
	return size, st, err
}

// request is what a pod's containers request of a resource, in thousandths. A container without a request makes a share of it meaningless.
func request(pod *corev1.Pod, name corev1.ResourceName, container string) (int64, error) {
	var sum int64
	all := append([]corev1.Container(nil), pod.Spec.Containers...)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	for _, c := range all {
		if container != "" && c.Name != container {
			continue
		}
		q, ok := c.Resources.Requests[name]
		if !ok {
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
		}
		sum += q.MilliValue()
	}
	return sum, nil
}

// byPods sizes by the average over pods. With requests, target is a percentage of them; without, thousandths per pod. Pods that were not measured, or whose
// measurement cannot be trusted yet, are counted so that they damp the change: as using nothing when it would grow, as on target when it would shrink.
func (s *state) byPods(samples map[string]sample, name corev1.ResourceName, requests map[string]int64, target int64, current int32) (size int32, average int64, err error) {
	pods, err := s.pods.Pods(s.hpa.Namespace).List(s.selector)
	if err != nil {
		return 0, 0, err
	}
	measured := map[string]int64{}
	var missing, unready []string
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		x, ok := samples[pod.Name]
		switch {
		case pod.Status.Phase == corev1.PodPending:
			unready = append(unready, pod.Name)
		case !ok:
			missing = append(missing, pod.Name)
		case name == corev1.ResourceCPU && s.starting(pod, x):
			unready = append(unready, pod.Name)
		default:
			measured[pod.Name] = x.value
		}
	}
	if len(measured) == 0 {
		return 0, 0, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	ratio := func(values map[string]int64) float64 {
		var sum, base int64
		for pod, v := range values {
			sum += v
			if requests == nil {
				base += target
			} else {
				base += requests[pod] * target / 100
			}
		}
		if base == 0 {
			return 1
		}
		return float64(sum) / float64(base)
	}
	for _, v := range measured {
		average += v
	}
	average /= int64(len(measured))
	first := ratio(measured)
	growing := first > 1
	if len(missing) == 0 && (!growing || len(unready) == 0) {
		if s.within(first) {
			return current, average, nil
		}
		return int32(math.Ceil(first * float64(len(measured)))), average, nil
	}
	for _, pod := range missing {
		switch {
		case growing:
			measured[pod] = 0
		case requests != nil:
			measured[pod] = requests[pod] * max(100, target) / 100
		default:
			measured[pod] = target
		}
	}
	if growing {
		for _, pod := range unready {
			measured[pod] = 0
		}
	}
	second := ratio(measured)
	size = int32(math.Ceil(second * float64(len(measured))))
	if s.within(second) || growing != (second > 1) || growing && size < current || !growing && size > current {
		return current, average, nil // what is unknown could turn the direction
	}
	return size, average, nil
}

// starting reports whether a pod's CPU is still that of its start.
func (s *state) starting(pod *corev1.Pod, x sample) bool {
	c := controller.PodCondition(pod, corev1.PodReady)
	if c == nil || pod.Status.StartTime == nil {
		return true
	}
	if pod.Status.StartTime.Add(startPeriod).After(s.now) {
		return c.Status == corev1.ConditionFalse || x.at.Before(c.LastTransitionTime.Add(x.window))
	}
	return c.Status == corev1.ConditionFalse && pod.Status.StartTime.Add(initialDelay).After(c.LastTransitionTime.Time)
}

// byTotal sizes by one value for all pods together.
func (s *state) byTotal(value int64, t autoscalingv2.MetricTarget, current int32) (int32, autoscalingv2.MetricValueStatus, error) {
	if t.AverageValue != nil {
		st := autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(value/int64(max(1, current)), resource.DecimalSI)}
		if s.within(float64(value) / (float64(t.AverageValue.MilliValue()) * float64(max(1, current)))) {
			return current, st, nil
		}
		return int32(math.Ceil(float64(value) / float64(t.AverageValue.MilliValue()))), st, nil
	}
	if t.Value == nil {
		return 0, autoscalingv2.MetricValueStatus{}, errors.New("the target has neither a value nor an average value")
	}
	st := autoscalingv2.MetricValueStatus{Value: resource.NewMilliQuantity(value, resource.DecimalSI)}
	ratio := float64(value) / float64(t.Value.MilliValue())
	if s.within(ratio) && current > 0 {
		return current, st, nil
	}
	pods, err := s.pods.Pods(s.hpa.Namespace).List(s.selector)
	if err != nil {
		return 0, st, err
	}
	ready := len(controller.Filter(pods, func(p *corev1.Pod) bool { return controller.Active(p) && controller.Ready(p) }))
	if current == 0 {
		ready = 1 // from zero, the metric alone decides
	}
	return int32(math.Ceil(ratio * float64(ready))), st, nil
}

// within reports whether a ratio is so close to 1 that nothing should change.
func (s *state) within(ratio float64) bool {
	t := tolerance
	if r := s.rules(ratio > 1); r.Tolerance != nil {
		t = r.Tolerance.AsApproximateFloat64()
	}
	return math.Abs(ratio-1) <= t
}
