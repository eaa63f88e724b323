// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

// loop tries one pod after the other until ctx ends.
func (s *Scheduler) loop(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case s.binding <- struct{}{}: // no pod is decided before its binding can begin
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		now := s.clock.Now()
		s.reportOverdue(now)
		item := s.queue.Pop(now)
		if item == nil {
			at, ok := s.queue.Next(now)
			s.mu.Unlock()
			<-s.binding
			s.sleep(ctx, now, at, ok)
			continue
		}
		bind := s.attempt(ctx, item, now)
		s.mu.Unlock()
		if bind == nil {
			<-s.binding
			continue
		}
		s.hand(ctx, bind)
	}
}

// binderIdle is how long a goroutine that binds waits for the next binding: its stack has grown to what a request needs, a new one's has not.
const binderIdle = 10 * time.Second

// hand gives a binding to an idle goroutine or a new one.
func (s *Scheduler) hand(ctx context.Context, bind func()) {
	select {
	case s.binds <- bind:
		return
	default:
	}
	s.goTask(func() {
		idle := s.clock.NewTimer(binderIdle)
		defer idle.Stop()
		for {
			bind()
			idle.Reset(binderIdle)
			select {
			case bind = <-s.binds:
			case <-idle.C():
				return
			case <-ctx.Done():
				return
			}
		}
	})
}

func (s *Scheduler) sleep(ctx context.Context, now, until time.Time, limited bool) {
	var expired <-chan time.Time
	if limited {
		timer := s.clock.NewTimer(max(time.Millisecond, until.Sub(now)))
		defer timer.Stop()
		expired = timer.C()
	}
	select {
	case <-ctx.Done():
	case <-s.kick:
	case <-expired:
	}
}

// wakeLoop tells the loop to look at the queue.
func (s *Scheduler) wakeLoop() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// attempt tries one pod. If a node is found it is assumed there, and the returned function binds it.
func (s *Scheduler) attempt(ctx context.Context, item *queue.Item, now time.Time) (bind func()) {
	if item.Pod.DeletionTimestamp != nil {
		s.queue.Remove(item.Pod.UID)
		return nil
	}
	profile := item.Class.Profile
	result := s.eval.Place(item.Request)
	took := s.clock.Since(now)
	if result.Node != nil {
		observeAttempt(scheduled, profile.SchedulerName, took)
		s.state.Denominate(item.Pod.UID)
		p := s.reserve(item, result.Node, result.Devices)
		s.state.Assume(item.Pod, result.Node, item.Class.Shape)
		node := result.Node.Name
		s.log.V(3).Info("Found a node", "pod", klogPod(item.Pod), "node", node, "feasible", result.Feasible)
		return func() { s.bind(ctx, item, node, p, func() { <-s.binding }) }
	}
	observeAttempt(unschedulable, profile.SchedulerName, took)
	s.reject(ctx, item, result.Diagnosis, now)
	return nil
}

// reject parks a pod that fits nowhere, after looking for pods to preempt, and says why.
func (s *Scheduler) reject(ctx context.Context, item *queue.Item, d *placement.Diagnosis, now time.Time) {
	message := s.eval.Message(d)
	nominated := ""
	var remove func(context.Context)
	if item.Class.Profile.Preemption {
		var why string
		if nominated, remove, why = s.preempt(item); why != "" {
			message += " preemption: " + why
		}
	}
	if nominated == "" {
		s.state.Denominate(item.Pod.UID)
		message += advice(d, s.eval)
	}
	item.Message = message
	s.queue.Park(item, d.Rejected, now)
	s.status.unschedulable(item.Pod, v1.PodReasonUnschedulable, message, nominated)
	if remove != nil {
		s.goTask(func() { remove(ctx) })
	}
}

// reportOverdue tells of pods whose start deadline has passed.
func (s *Scheduler) reportOverdue(now time.Time) {
	for item := s.queue.Overdue(now); item != nil; item = s.queue.Overdue(now) {
		missedDeadlines.Inc()
		s.events.warn(item.Pod, "StartDeadlineMissed", "Scheduling", "no node by "+item.Deadline.UTC().Format(time.RFC3339)+": "+orNotTried(item.Message))
	}
}

func orNotTried(message string) string {
	if message == "" {
		return "other pods came first"
	}
	return message
}
