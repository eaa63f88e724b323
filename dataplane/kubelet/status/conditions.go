// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

const (
	reasonCompleted = "PodCompleted"
	reasonFailed    = "PodFailed"
	reasonNotReady  = "ContainersNotReady"
	reasonNotInit   = "ContainersNotInitialized"
	reasonGates     = "ReadinessGatesNotReady"
)

// conditions sets the conditions that are the kubelet's; others (readiness gates, disruption) are left as they are.
func (in Input) conditions(out *v1.PodStatus) {
	in.set(out, v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue})
	in.set(out, v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: boolStatus(in.Observed.Ready() != nil)})
	in.set(out, in.initialized(out))
	containersReady := in.containersReady(out)
	in.set(out, containersReady)
	ready := containersReady
	ready.Type = v1.PodReady
	if ready.Status == v1.ConditionTrue {
		var missing []string
		for _, gate := range in.Pod.Spec.ReadinessGates {
			condition := find(out.Conditions, gate.ConditionType)
			switch {
			case condition == nil:
				missing = append(missing, `corresponding condition of pod readiness gate "`+string(gate.ConditionType)+`" does not exist.`)
			case condition.Status != v1.ConditionTrue:
				missing = append(missing, `the status of pod readiness gate "`+string(gate.ConditionType)+`" is not "True", but `+string(condition.Status))
			}
		}
		if len(missing) > 0 {
			ready.Status, ready.Reason, ready.Message = v1.ConditionFalse, reasonGates, strings.Join(missing, ", ")
		}
	}
	in.set(out, ready)
}

func (in Input) initialized(out *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if out.Phase == v1.PodSucceeded {
		c.Reason = reasonCompleted
		return c
	}
	anyStarted := slices.ContainsFunc(out.ContainerStatuses, func(s v1.ContainerStatus) bool {
		return s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
	})
	var incomplete []string
	for i := range in.Pod.Spec.InitContainers {
		s := &out.InitContainerStatuses[i]
		done := s.Ready
		if sync.IsSidecar(&in.Pod.Spec.InitContainers[i]) {
			done = s.Started != nil && *s.Started
		}
		if !done && !anyStarted {
			incomplete = append(incomplete, s.Name)
		}
	}
	if len(incomplete) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, reasonNotInit
		c.Message = "containers with incomplete status: [" + strings.Join(incomplete, " ") + "]"
	}
	return c
}

func (in Input) containersReady(out *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue}
	switch out.Phase {
	case v1.PodSucceeded:
		c.Status, c.Reason = v1.ConditionFalse, reasonCompleted
		return c
	case v1.PodFailed:
		c.Status, c.Reason = v1.ConditionFalse, reasonFailed
		return c
	}
	var unready []string
	for i := range in.Pod.Spec.InitContainers {
		if s := &out.InitContainerStatuses[i]; sync.IsSidecar(&in.Pod.Spec.InitContainers[i]) && !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	for i := range out.ContainerStatuses {
		if !out.ContainerStatuses[i].Ready {
			unready = append(unready, out.ContainerStatuses[i].Name)
		}
	}
	if len(unready) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, reasonNotReady
		c.Message = "containers with unready status: [" + strings.Join(unready, " ") + "]"
	}
	return c
}

// set replaces a condition; the time of transition changes only with the status.
func (in Input) set(out *v1.PodStatus, c v1.PodCondition) {
	now := metav1.NewTime(in.Now)
	c.LastTransitionTime, c.ObservedGeneration = now, in.Pod.Generation
	if in.Before != nil {
		if last := find(in.Before.Conditions, c.Type); last != nil && last.Status == c.Status && !last.LastTransitionTime.IsZero() {
			c.LastTransitionTime = last.LastTransitionTime
		}
	}
	if old := find(out.Conditions, c.Type); old != nil {
		if old.Status == c.Status && !old.LastTransitionTime.IsZero() {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.LastProbeTime = old.LastProbeTime
		*old = c
		return
	}
	out.Conditions = append(out.Conditions, c)
}

func find(list []v1.PodCondition, kind v1.PodConditionType) *v1.PodCondition {
	if i := slices.IndexFunc(list, func(c v1.PodCondition) bool { return c.Type == kind }); i >= 0 {
		return &list[i]
	}
	return nil
}

func boolStatus(b bool) v1.ConditionStatus {
	if b {
		return v1.ConditionTrue
	}
	return v1.ConditionFalse
}
