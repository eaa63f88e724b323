// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"fmt"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// newState is a round at now with n running pods that request 100m each.
func newState(n int, behavior *autoscalingv2.HorizontalPodAutoscalerBehavior) *state {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for i := range n {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p%d", i)}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
		}}}}
		if err := indexer.Add(controllertest.Running(pod, "10.0.0.1", start.Add(-time.Hour))); err != nil {
			panic(err)
		}
	}
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "h"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{Behavior: behavior}}
	return &state{
		loop: &loop{pods: corelisters.NewPodLister(indexer), history: map[string]*history{}}, key: "ns/h", hpa: hpa, now: start, selector: labels.Everything(),
	}
}

func cpu(values ...int64) map[string]sample {
	out := map[string]sample{}
	for i, v := range values {
		if v >= 0 {
			out[fmt.Sprintf("p%d", i)] = sample{value: v, at: start, window: time.Minute}
		}
	}
	return out
}

// The expected sizes follow ceil(pods * used / target) of "Algorithm details" in Kubernetes' documentation, and its rules for missing and unready pods.
func TestSizeByCPUUtilization(t *testing.T) {
	for _, test := range []struct {
		name    string
		samples map[string]sample
		pods    int
		want    int32
	}{
		{"twice the target doubles", cpu(100, 100), 2, 4},
		{"half the target halves", cpu(25, 25, 25, 25), 4, 2},
		{"within the tolerance nothing changes", cpu(54, 54), 2, 2},
		{"just outside the tolerance", cpu(56, 56), 2, 3},
		{"a missing pod counts as idle when growing", cpu(100, 100, -1), 3, 4},
		{"a missing pod counts as busy when shrinking", cpu(10, 10, -1), 3, 3},
	} {
		s := newState(test.pods, nil)
		got, _, err := s.byResource(test.samples, corev1.ResourceCPU, "", autoscalingv2.MetricTarget{AverageUtilization: ptr.To[int32](50)}, int32(test.pods))
		if err != nil || got != test.want {
			t.Errorf("%s: %d (%v), want %d", test.name, got, err, test.want)
		}
	}
}

func TestAStartingPodDoesNotCountItsCPU(t *testing.T) {
	s := newState(1, nil)
	young := controllertest.Running(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "young"}}, "10.0.0.2", start.Add(-30*time.Second))
	if !s.starting(young, sample{at: start, window: time.Minute}) {
		t.Error("measured over a minute of which it was ready only half: its CPU must not count")
	}
	if s.starting(young, sample{at: start.Add(40 * time.Second), window: time.Minute}) {
		t.Error("measured over a minute in which it was ready all the time: its CPU counts")
	}
}

func TestAPodWithoutARequestCannotBeMeasuredInPercent(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if _, err := request(pod, corev1.ResourceCPU, ""); err == nil {
		t.Error("no error")
	}
}

func TestBehavior(t *testing.T) {
	type round struct {
		after             time.Duration
		current, proposed int32
		want              int32
	}
	percent := func(value, period int32) []autoscalingv2.HPAScalingPolicy {
		return []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: value, PeriodSeconds: period}}
	}
	for _, test := range []struct {
		name     string
		behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
		rounds   []round
	}{
		{"by default at most double or four more per 15 s", nil, []round{{0, 1, 100, 5}, {15 * time.Second, 5, 100, 10}, {15 * time.Second, 10, 100, 20}}},
		{"by default scaling down waits 5 minutes", nil, []round{{0, 10, 10, 10}, {15 * time.Second, 10, 2, 10}, {4 * time.Minute, 10, 2, 10}, {time.Minute, 10, 2, 2}}},
		{"a slow scale-down of 10 percent a minute", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: ptr.To[int32](0), Policies: percent(10, 60),
		}}, []round{{0, 80, 10, 72}, {15 * time.Second, 72, 10, 72}, {time.Minute, 72, 10, 64}}},
		{"scaling down disabled", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: ptr.To[int32](0), SelectPolicy: ptr.To(autoscalingv2.DisabledPolicySelect),
		}}, []round{{0, 10, 1, 10}}},
		{"the smaller of two policies", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{
			SelectPolicy: ptr.To(autoscalingv2.MinChangePolicySelect),
			Policies:     append(percent(100, 15), autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 2, PeriodSeconds: 15}),
		}}, []round{{0, 10, 100, 12}}},
		{"never above the maximum", nil, []round{{0, 150, 500, 200}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newState(0, test.behavior)
			for i, r := range test.rounds {
				s.now = s.now.Add(r.after)
				got := s.behave(r.current, r.proposed, 1, 200)
				if got != r.want {
					t.Fatalf("round %d: %d to %d becomes %d, want %d", i, r.current, r.proposed, got, r.want)
				}
				if got != r.current {
					s.scaled(r.current, got)
				}
			}
		})
	}
}
