// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// history is what an autoscaler's behaviour looks back at. It is kept in memory: a new leader begins with an empty one, which can only delay scaling down.
type history struct {
	proposals []proposal // of the longest stabilisation window
	changes   []change   // of the longest policy period
}

type proposal struct {
	at   time.Time
	size int32
}

type change struct {
	at time.Time
	by int32 // negative: scaled down
}

// The rules of an autoscaler that has none, from the API reference.
var (
	defaultUp = autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: ptr.To[int32](0), SelectPolicy: ptr.To(autoscalingv2.MaxChangePolicySelect),
		Policies: []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, {Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
		},
	}
	defaultDown = autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: ptr.To[int32](300), SelectPolicy: ptr.To(autoscalingv2.MaxChangePolicySelect),
		Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}},
	}
)

func (s *state) rules(up bool) autoscalingv2.HPAScalingRules {
	r, given := defaultDown, (*autoscalingv2.HPAScalingRules)(nil)
	if up {
		r = defaultUp
	}
	if b := s.hpa.Spec.Behavior; b != nil && up {
		given = b.ScaleUp
	} else if b != nil {
		given = b.ScaleDown
	}
	if given == nil {
		return r
	}
	if given.StabilizationWindowSeconds != nil {
		r.StabilizationWindowSeconds = given.StabilizationWindowSeconds
	}
	if given.SelectPolicy != nil {
		r.SelectPolicy = given.SelectPolicy
	}
	if len(given.Policies) > 0 {
		r.Policies = given.Policies
	}
	r.Tolerance = given.Tolerance
	return r
}

// behave turns a proposal into the size to set: steadied over the stabilisation windows, limited by the rates of the policies, within least and most.
func (s *state) behave(current, proposed, least, most int32) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.history[s.key]
	if h == nil {
		h = &history{}
		s.history[s.key] = h
	}
	if len(h.proposals) == 0 { // the size at the start counts as a proposal: a new leader does not shrink at once
		h.proposals = append(h.proposals, proposal{s.now, current})
	}
	up, down := s.rules(true), s.rules(false)
	steady := s.stabilise(h, current, proposed, seconds(up.StabilizationWindowSeconds), seconds(down.StabilizationWindowSeconds))
	if steady != proposed {
		reason := "ScaleDownStabilized"
		if steady < proposed {
			reason = "ScaleUpStabilized"
		}
		s.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, "recent recommendations were different from the current one, applying the steadier one in the window")
	} else {
		s.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ReadyForNewScale", "recommended size matches current size or may be applied")
	}
	size, limited, why := steady, "", ""
	switch {
	case steady > current:
		limit := s.limit(h, current, up, true)
		if size > limit {
			size, limited, why = max(limit, current), "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
		}
	case steady < current:
		limit := s.limit(h, current, down, false)
		if size < limit {
			size, limited, why = min(limit, current), "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
		}
	}
	switch {
	case size > most:
		size, limited, why = most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
	case size < least:
		size, limited, why = least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
	}
	if limited != "" {
		s.condition(autoscalingv2.ScalingLimited, corev1.ConditionTrue, limited, why)
	} else {
		s.condition(autoscalingv2.ScalingLimited, corev1.ConditionFalse, "DesiredWithinRange", "the desired count is within the acceptable range")
	}
	return size
}

// stabilise notes the proposal and returns the steadiest size: not above the lowest of the scale-up window, not below the highest of the scale-down window.
func (s *state) stabilise(h *history, current, proposed int32, upWindow, downWindow time.Duration) int32 {
	up, down := proposed, proposed
	longest := max(upWindow, downWindow)
	kept := h.proposals[:0]
	for _, p := range h.proposals {
		age := s.now.Sub(p.at)
		if age < upWindow {
			up = min(up, p.size)
		}
		if age < downWindow {
			down = max(down, p.size)
		}
		if age < longest {
			kept = append(kept, p)
		}
	}
	h.proposals = append(kept, proposal{s.now, proposed})
	size := current
	size = max(size, up)
	return min(size, down)
}

// limit is the farthest size that the policies allow from current, counting what was changed within their periods.
func (s *state) limit(h *history, current int32, r autoscalingv2.HPAScalingRules, up bool) int32 {
	if *r.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	var result int32
	for i, p := range r.Policies {
		var before int32 // the size at the start of the period
		for _, c := range h.changes {
			if s.now.Sub(c.at) < time.Duration(p.PeriodSeconds)*time.Second && (c.by > 0) == up {
				before += c.by
			}
		}
		before = current - before
		sign := int32(1)
		if !up {
			sign = -1
		}
		value := before + sign*p.Value
		if p.Type == autoscalingv2.PercentScalingPolicy {
			share := float64(before) * float64(p.Value) / 100
			value = before + int32(math.Ceil(share))
			if !up {
				value = int32(float64(before) - share)
			}
		}
		// "Max" chooses the policy that changes most, "Min" the one that changes least.
		most := *r.SelectPolicy != autoscalingv2.MinChangePolicySelect
		if i == 0 || (value > result) == (most == up) {
			result = value
		}
	}
	return result
}

// scaled notes a change that was made.
func (s *state) scaled(from, to int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.history[s.key]
	if h == nil {
		h = &history{}
		s.history[s.key] = h
	}
	kept := h.changes[:0]
	for _, c := range h.changes {
		if s.now.Sub(c.at) < 30*time.Minute { // the longest period that validation allows
			kept = append(kept, c)
		}
	}
	h.changes = append(kept, change{s.now, to - from})
}

func seconds(n *int32) time.Duration { return time.Duration(ptr.Deref(n, 0)) * time.Second }

func nameOf(m *autoscalingv2.MetricSpec) string {
	switch m.Type {
	case autoscalingv2.ResourceMetricSourceType:
		return fmt.Sprintf("%s resource", m.Resource.Name)
	case autoscalingv2.ContainerResourceMetricSourceType:
		return fmt.Sprintf("%s container resource", m.ContainerResource.Name)
	case autoscalingv2.PodsMetricSourceType:
		return "pods metric " + m.Pods.Metric.Name
	case autoscalingv2.ObjectMetricSourceType:
		return fmt.Sprintf("%s metric %s", m.Object.DescribedObject.Kind, m.Object.Metric.Name)
	case autoscalingv2.ExternalMetricSourceType:
		return "external metric " + m.External.Metric.Name
	}
	return string(m.Type)
}
