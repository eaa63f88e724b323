// SPDX-License-Identifier: Apache-2.0

// Package podautoscaler sets the size of workloads by what their pods use: HorizontalPodAutoscaler, version 2.
//
// It watches HorizontalPodAutoscalers and Pods, reads the metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io APIs, and writes the scale
// subresource of the target and the autoscaler's status.
//
//	every 15 s per autoscaler: scale of the target -> each metric proposes a size -> the largest -> behaviour (stabilisation, rates) -> min, max -> write
package podautoscaler

import (
	"context"
	"fmt"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	interval  = 15 * time.Second
	tolerance = 0.1
	// A pod's CPU is not believed while it starts: within startPeriod of its start it must be ready, and have been measured since.
	startPeriod  = 5 * time.Minute
	initialDelay = 30 * time.Second
)

type loop struct {
	c       *controller.Context
	queue   *controller.Queue
	scalers autoscalinglisters.HorizontalPodAutoscalerLister
	pods    corelisters.PodLister
	metrics metrics
	synced  []cache.InformerSynced

	mu      sync.Mutex
	history map[string]*history
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("horizontal-pod-autoscaler", "horizontal-pod-autoscaler")
	return newLoop(c, newMetrics(c))
}

func newLoop(c *controller.Context, m metrics) *loop {
	scalers, pods := c.Informers.Autoscaling().V2().HorizontalPodAutoscalers(), c.Informers.Core().V1().Pods()
	l := &loop{
		c: c, scalers: scalers.Lister(), pods: pods.Lister(), metrics: m, history: map[string]*history{},
		synced: []cache.InformerSynced{scalers.Informer().HasSynced, pods.Informer().HasSynced},
	}
	l.queue = c.Queue("podautoscaler", l.sync)
	controller.Watch(scalers.Informer(), func(old, obj any) {
		was, _ := controller.Object[*autoscalingv2.HorizontalPodAutoscaler](old)
		is, _ := controller.Object[*autoscalingv2.HorizontalPodAutoscaler](obj)
		// Only a new spec is worth a round of its own: our status writes are not.
		if is != nil && (was == nil || old == obj || !equality.Semantic.DeepEqual(was.Spec, is.Spec)) {
			l.queue.Enqueue(is)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	cached, err := l.scalers.HorizontalPodAutoscalers(namespace).Get(name)
	if err != nil {
		l.mu.Lock()
		delete(l.history, key)
		l.mu.Unlock()
		return controller.IgnoreNotFound(err)
	}
	s := &state{loop: l, key: key, hpa: cached.DeepCopy(), now: l.c.Clock.Now()}
	s.reconcile(ctx)
	l.queue.AddAfter(key, interval)
	if equality.Semantic.DeepEqual(cached.Status, s.hpa.Status) {
		return nil
	}
	_, err = l.c.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).UpdateStatus(ctx, s.hpa, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

// state is one round of one autoscaler; hpa is a copy whose status becomes the new one.
type state struct {
	*loop
	key      string
	hpa      *autoscalingv2.HorizontalPodAutoscaler
	now      time.Time
	selector labels.Selector
}

// target is the scale of what the autoscaler scales.
type target struct {
	gvr  schema.GroupVersionResource
	obj  *unstructured.Unstructured
	size int32
}

// reconcile takes one round. What goes wrong is told in conditions and events: the next round tries again anyway.
func (s *state) reconcile(ctx context.Context) {
	st := &s.hpa.Status
	st.ObservedGeneration = &s.hpa.Generation
	t, err := s.scale(ctx)
	if err != nil {
		s.event(corev1.EventTypeWarning, "FailedGetScale", err.Error())
		s.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", "the HPA controller was unable to get the target's current scale: "+err.Error())
		return
	}
	s.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := t.size
	st.CurrentReplicas = current
	least, most := ptr.Deref(s.hpa.Spec.MinReplicas, 1), s.hpa.Spec.MaxReplicas
	desired, reason := current, ""
	switch {
	case current == 0 && least != 0:
		s.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		st.DesiredReplicas = 0
		return
	case current > most:
		desired, reason = most, "Current number of replicas above Spec.MaxReplicas"
	case current < least:
		desired, reason = least, "Current number of replicas below Spec.MinReplicas"
	default:
		proposed, metric, err := s.propose(ctx, current)
		if err != nil {
			s.event(corev1.EventTypeWarning, "FailedComputeMetricsReplicas", err.Error())
			st.DesiredReplicas = current
			return
		}
		if proposed > current {
			reason = metric + " above target"
		} else if proposed < current {
			reason = "All metrics below target"
		}
		desired = s.behave(current, proposed, least, most)
	}
	st.DesiredReplicas = desired
	if desired == current {
		return
	}
	if err := s.resize(ctx, t, desired); err != nil {
		s.event(corev1.EventTypeWarning, "FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", desired, reason, err))
		s.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: "+err.Error())
		st.DesiredReplicas = current
		return
	}
	s.scaled(current, desired)
	now := metav1.NewTime(s.now)
	st.LastScaleTime = &now
	s.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", desired))
	s.event(corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", desired, reason))
}

// scale reads the scale subresource of the target.
func (s *state) scale(ctx context.Context) (*target, error) {
	ref := s.hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	m, err := s.c.Mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if meta.IsNoMatchError(err) { // the target may be named by a version that is served no longer
		m, err = s.c.Mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	}
	if err != nil {
		return nil, err
	}
	obj, err := s.c.Dynamic.Resource(m.Resource).Namespace(s.hpa.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}, "scale")
	if err != nil {
		return nil, err
	}
	size, _, err := unstructured.NestedInt64(obj.Object, "spec", "replicas")
	if err != nil {
		return nil, err
	}
	text, _, _ := unstructured.NestedString(obj.Object, "status", "selector")
	if text == "" {
		s.event(corev1.EventTypeWarning, "SelectorRequired", "selector is required")
		s.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "the HPA target's scale is missing a selector")
		return nil, fmt.Errorf("the scale of %s %s has no selector", ref.Kind, ref.Name)
	}
	if s.selector, err = labels.Parse(text); err != nil {
		return nil, fmt.Errorf("selector of the scale of %s %s: %w", ref.Kind, ref.Name, err)
	}
	return &target{m.Resource, obj, int32(size)}, nil
}

func (s *state) resize(ctx context.Context, t *target, size int32) error {
	obj := t.obj.DeepCopy()
	if err := unstructured.SetNestedField(obj.Object, int64(size), "spec", "replicas"); err != nil {
		return err
	}
	_, err := s.c.Dynamic.Resource(t.gvr).Namespace(s.hpa.Namespace).Update(ctx, obj, metav1.UpdateOptions{}, "scale")
	return err
}

// propose asks every metric for a size and takes the largest. A metric that cannot be read forbids to scale down, since it might have wanted more.
func (s *state) propose(ctx context.Context, current int32) (size int32, metric string, err error) {
	var statuses []autoscalingv2.MetricStatus
	var firstErr error
	var firstReason string
	valid := 0
	for i := range s.hpa.Spec.Metrics {
		p, status, reason, err := s.metric(ctx, &s.hpa.Spec.Metrics[i], current)
		if err != nil {
			if firstErr == nil {
				firstErr, firstReason = err, reason
			}
			s.event(corev1.EventTypeWarning, reason, err.Error())
			continue
		}
		valid++
		statuses = append(statuses, status)
		if p > size || metric == "" {
			size, metric = p, nameOf(&s.hpa.Spec.Metrics[i])
		}
	}
	s.hpa.Status.CurrentMetrics = statuses
	if firstErr != nil && (valid == 0 || size < current) {
		s.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, firstReason, "the HPA was unable to compute the replica count: "+firstErr.Error())
		return 0, "", fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", len(s.hpa.Spec.Metrics)-valid, len(s.hpa.Spec.Metrics), firstErr)
	}
	s.condition(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+metric)
	return size, metric, nil
}

func (s *state) event(kind, reason, message string) { s.c.Events.Event(s.hpa, kind, reason, message) }

func (s *state) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string) {
	c := autoscalingv2.HorizontalPodAutoscalerCondition{Type: t, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(s.now)}
	for i := range s.hpa.Status.Conditions {
		had := &s.hpa.Status.Conditions[i]
		if had.Type != t {
			continue
		}
		if had.Status == status {
			c.LastTransitionTime = had.LastTransitionTime
		}
		*had = c
		return
	}
	s.hpa.Status.Conditions = append(s.hpa.Status.Conditions, c)
}
