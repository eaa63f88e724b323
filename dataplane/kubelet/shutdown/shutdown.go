// SPDX-License-Identifier: Apache-2.0

// Package shutdown ends a node's pods in order when its machine shuts down: those of low priority first, critical ones last, each group within
// its period.
//
//	logind ──PrepareForShutdown──▶ Watcher ──▶ Plan: groups ──▶ Kill, wait, next group ──▶ inhibitor released: the machine goes on
//	SIGTERM, OnTerm or systemd is stopping ──▶ Shutdown ──▲
//
// With systemd an inhibitor lock of logind holds the machine back meanwhile. Nothing here knows a container runtime.
package shutdown

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
)

// What the status of pods that were ended says, and of those that came too late.
const (
	Reason         = "Terminated"
	Message        = "Pod was terminated in response to imminent node shutdown."
	RejectReason   = "NodeShutdown"
	RejectMessage  = "Pod was rejected as the node is shutting down."
	criticalPods   = 2000000000 // priority of system-cluster-critical
	defaultBus     = "unix:path=/run/dbus/system_bus_socket"
	defaultDropIns = "/etc/systemd/logind.conf.d"
)

// Config says how long pods have. The zero value ends none.
type Config struct {
	// Grace is for all pods together; of it the last GraceCritical is for critical pods alone.
	Grace, GraceCritical time.Duration
	// ByPriority, given instead of the above, is how long pods of at least a priority have.
	ByPriority []Period
	// OnTerm says that the agent is ended (SIGTERM) only when the machine goes down, as on hosts without systemd whose init restarts it
	// otherwise; where systemd runs, it is asked.
	OnTerm bool
	// SystemBus is the D-Bus address of the system bus. Default: unix:path=/run/dbus/system_bus_socket.
	SystemBus string
	// DropIns is where logind's longest delay is raised if it is too short. Default: /etc/systemd/logind.conf.d.
	DropIns string
}

// Period is the time pods of at least a priority have.
type Period struct {
	Priority int32
	Grace    time.Duration
}

// Add reads one more period by priority: a whole number and a duration.
func (c *Config) Add(priority, grace string) error {
	p, err := strconv.ParseInt(priority, 10, 32)
	if err != nil {
		return fmt.Errorf("priority %q: %w", priority, err)
	}
	period, err := time.ParseDuration(grace)
	if err != nil {
		return fmt.Errorf("period of priority %d: %w", p, err)
	}
	c.ByPriority = append(c.ByPriority, Period{Priority: int32(p), Grace: period})
	return nil
}

// Periods are the groups' times, lowest priority first; none when pods are not to be ended.
func (c Config) Periods() ([]Period, error) {
	if len(c.ByPriority) > 0 {
		if c.Grace != 0 || c.GraceCritical != 0 {
			return nil, errors.New("shutdown periods: give either one for all pods or those by priority")
		}
		out := slices.Clone(c.ByPriority)
		slices.SortFunc(out, func(a, b Period) int { return cmp.Compare(a.Priority, b.Priority) })
		for i, p := range out {
			if p.Grace < 0 || i > 0 && out[i-1].Priority == p.Priority {
				return nil, fmt.Errorf("shutdown period of priority %d is negative or given twice", p.Priority)
			}
		}
		return out, nil
	}
	if c.Grace < 0 || c.GraceCritical < 0 || c.GraceCritical > c.Grace {
		return nil, fmt.Errorf("shutdown period %v: that of critical pods, %v, is a part of it", c.Grace, c.GraceCritical)
	}
	if c.Grace == 0 {
		return nil, nil
	}
	return []Period{{0, c.Grace - c.GraceCritical}, {criticalPods, c.GraceCritical}}, nil
}

// Group is pods that end together.
type Group struct {
	Grace time.Duration
	Pods  []*v1.Pod
}

// Plan puts each pod into the group of the highest priority that is not above its own; what is below all goes with the first.
func Plan(periods []Period, pods []*v1.Pod) []Group {
	out := make([]Group, len(periods))
	for i, p := range periods {
		out[i].Grace = p.Grace
	}
	for _, pod := range pods {
		priority := int32(0)
		if pod.Spec.Priority != nil {
			priority = *pod.Spec.Priority
		}
		i, exact := slices.BinarySearchFunc(periods, priority, func(p Period, priority int32) int { return cmp.Compare(p.Priority, priority) })
		if !exact {
			i = max(i-1, 0)
		}
		out[i].Pods = append(out[i].Pods, pod)
	}
	return slices.DeleteFunc(out, func(g Group) bool { return len(g.Pods) == 0 })
}

// total is how long all groups may take.
func total(periods []Period) (sum time.Duration) {
	for _, p := range periods {
		sum += p.Grace
	}
	return sum
}
