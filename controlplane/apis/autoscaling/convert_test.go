// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/autoscaling/v1"
	v2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func quantityOf(s string) *resource.Quantity { return new(resource.MustParse(s)) }

// full uses everything that v2 has.
func full() *v2.HorizontalPodAutoscaler {
	h := &v2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns", Annotations: map[string]string{"mine": "kept"}}}
	h.Spec = v2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: v2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "a"}, MinReplicas: new(int32(2)), MaxReplicas: 9,
		Metrics: []v2.MetricSpec{
			{Type: v2.ResourceMetricSourceType, Resource: &v2.ResourceMetricSource{Name: corev1.ResourceCPU,
				Target: v2.MetricTarget{Type: v2.UtilizationMetricType, AverageUtilization: new(int32(70))}}},
			{Type: v2.ResourceMetricSourceType, Resource: &v2.ResourceMetricSource{Name: corev1.ResourceMemory,
				Target: v2.MetricTarget{Type: v2.AverageValueMetricType, AverageValue: quantityOf("1Gi")}}},
			{Type: v2.ContainerResourceMetricSourceType, ContainerResource: &v2.ContainerResourceMetricSource{Name: corev1.ResourceCPU, Container: "web",
				Target: v2.MetricTarget{Type: v2.UtilizationMetricType, AverageUtilization: new(int32(50))}}},
			{Type: v2.PodsMetricSourceType, Pods: &v2.PodsMetricSource{Metric: v2.MetricIdentifier{Name: "rps", Selector: &metav1.LabelSelector{}},
				Target: v2.MetricTarget{Type: v2.AverageValueMetricType, AverageValue: quantityOf("100")}}},
			{Type: v2.ObjectMetricSourceType, Object: &v2.ObjectMetricSource{Metric: v2.MetricIdentifier{Name: "rps"},
				DescribedObject: v2.CrossVersionObjectReference{Kind: "Service", Name: "s"}, Target: v2.MetricTarget{Type: v2.ValueMetricType, Value: quantityOf("5")}}},
			{Type: v2.ExternalMetricSourceType, External: &v2.ExternalMetricSource{Metric: v2.MetricIdentifier{Name: "queue"},
				Target: v2.MetricTarget{Type: v2.AverageValueMetricType, AverageValue: quantityOf("30")}}},
		},
		Behavior: &v2.HorizontalPodAutoscalerBehavior{ScaleDown: &v2.HPAScalingRules{StabilizationWindowSeconds: new(int32(60))}},
	}
	h.Status = v2.HorizontalPodAutoscalerStatus{
		CurrentReplicas: 3, DesiredReplicas: 4, ObservedGeneration: new(int64(2)),
		CurrentMetrics: []v2.MetricStatus{{Type: v2.ResourceMetricSourceType, Resource: &v2.ResourceMetricStatus{Name: corev1.ResourceCPU,
			Current: v2.MetricValueStatus{AverageUtilization: new(int32(65)), AverageValue: quantityOf("650m")}}}},
		Conditions: []v2.HorizontalPodAutoscalerCondition{{Type: v2.AbleToScale, Status: corev1.ConditionTrue, Reason: "r", Message: "m"}},
	}
	return h
}

func TestAV1ClientLosesNothing(t *testing.T) {
	want := full()
	old, err := fromStored(want)
	if err != nil {
		t.Fatal(err)
	}
	if p := old.Spec.TargetCPUUtilizationPercentage; p == nil || *p != 70 {
		t.Errorf("v1 shows a CPU target of %v, want 70", p)
	}
	if p := old.Status.CurrentCPUUtilizationPercentage; p == nil || *p != 65 {
		t.Errorf("v1 shows a CPU utilization of %v, want 65", p)
	}
	got, err := toStored(old)
	if err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("read and written by v1 (-before +after):\n%s", cmp.Diff(want, got))
	}
}

func TestAV1ClientSetsTheCPUTarget(t *testing.T) {
	in := &v1.HorizontalPodAutoscaler{Spec: v1.HorizontalPodAutoscalerSpec{MaxReplicas: 3, TargetCPUUtilizationPercentage: new(int32(60))}}
	got, err := toStored(in)
	if err != nil {
		t.Fatal(err)
	}
	m := got.(*v2.HorizontalPodAutoscaler).Spec.Metrics
	if len(m) != 1 || m[0].Resource.Name != corev1.ResourceCPU || *m[0].Resource.Target.AverageUtilization != 60 {
		t.Errorf("metrics %+v", m)
	}
}

func TestForeignAnnotationsAreIgnored(t *testing.T) {
	in := &v1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{metricsAnnotation: "no JSON", behaviorAnnotation: "[]"}}}
	got, err := toStored(in)
	if err != nil {
		t.Fatal(err)
	}
	if h := got.(*v2.HorizontalPodAutoscaler); len(h.Spec.Metrics) != 0 || h.Spec.Behavior != nil {
		t.Errorf("spec %+v", h.Spec)
	}
}

func TestTargetsColumn(t *testing.T) {
	h := full()
	if got, want := targets(h), "cpu: 65%/70%, memory: <unknown>/1Gi + 4 more..."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
