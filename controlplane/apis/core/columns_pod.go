// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func podColumns() []resource.Column[*v1.Pod] {
	return column.Standard(
		column.Text("Ready", "Containers that are ready, of all that run side by side.", func(p *v1.Pod) string {
			s := summarize(p)
			return fmt.Sprintf("%d/%d", s.ready, s.total)
		}),
		column.Text("Status", "What the pod's containers do, in one word.", func(p *v1.Pod) string { return summarize(p).reason }),
		column.Text("Restarts", "How often containers were restarted, and when last.", func(p *v1.Pod) string {
			s := summarize(p)
			if s.restarts == 0 || s.lastRestart.IsZero() {
				return strconv.Itoa(s.restarts)
			}
			return fmt.Sprintf("%d (%s ago)", s.restarts, column.Since(s.lastRestart))
		}),
		column.Wide(column.Text("IP", "First address of the pod.", func(p *v1.Pod) string {
			if len(p.Status.PodIPs) > 0 {
				return column.Or(p.Status.PodIPs[0].IP, column.None)
			}
			return column.Or(p.Status.PodIP, column.None)
		})),
		column.Wide(column.Text("Node", "Node that the pod runs on.", func(p *v1.Pod) string { return column.Or(p.Spec.NodeName, column.None) })),
		column.Wide(column.Text("Nominated Node", "Node on which room is being made for the pod.",
			func(p *v1.Pod) string { return column.Or(p.Status.NominatedNodeName, column.None) })),
		column.Wide(column.Text("Readiness Gates", "Readiness gates that are open, of all.", readinessGates)),
	)
}

func readinessGates(p *v1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return column.None
	}
	open := 0
	for _, g := range p.Spec.ReadinessGates {
		if podCondition(p, g.ConditionType) {
			open++
		}
	}
	return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
}

// summary is a pod's state as one line of kubectl get pods.
type summary struct {
	ready, total int
	reason       string
	restarts     int
	lastRestart  metav1.Time
}

func (s *summary) countRestarts(c *v1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.lastRestart.Before(&t.FinishedAt) {
		s.lastRestart = t.FinishedAt
	}
}

// summarize tells what a person wants to know first: the init container that holds the pod up, else the container that fails, else the phase.
// While init containers run, their restarts are shown; afterwards those of the containers that go on running.
func summarize(p *v1.Pod) summary {
	s := summary{total: len(p.Spec.Containers), reason: column.Or(p.Status.Reason, string(p.Status.Phase))}
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Reason == v1.PodReasonSchedulingGated {
			s.reason = v1.PodReasonSchedulingGated
		}
	}
	sidecar := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			sidecar[c.Name] = true
			s.total++
		}
	}

	running := s // the state once initialization is over: only sidecars' restarts count
	initializing := false
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.countRestarts(c)
		if sidecar[c.Name] {
			running.countRestarts(c)
		}
		if t := c.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		if sidecar[c.Name] && c.Started != nil && *c.Started {
			if c.Ready {
				running.ready++
				s.ready++
			}
			continue
		}
		s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		if t, w := c.State.Terminated, c.State.Waiting; t != nil {
			s.reason = "Init:" + terminationReason(t)
		} else if w != nil && w.Reason != "" && w.Reason != "PodInitializing" {
			s.reason = "Init:" + w.Reason
		}
		initializing = true
		break
	}
	if !initializing || podCondition(p, v1.PodInitialized) {
		if initializing {
			running.reason = s.reason
		}
		s = running
		s.addContainers(p)
	}

	if p.DeletionTimestamp != nil {
		terminal := p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
		if p.Status.Reason == "NodeLost" {
			s.reason = "Unknown"
		} else if !terminal {
			s.reason = "Terminating"
		}
	}
	return s
}

// addContainers goes from the last container to the first, so that the first one with something to say has the last word.
func (s *summary) addContainers(p *v1.Pod) {
	someRun := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.countRestarts(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = terminationReason(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			someRun = true
			s.ready++
		}
	}
	if s.reason == "Completed" && someRun {
		s.reason = "NotReady"
		if podCondition(p, v1.PodReady) {
			s.reason = "Running"
		}
	}
}

func terminationReason(t *v1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func podCondition(p *v1.Pod, kind v1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}
