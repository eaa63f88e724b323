// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Results of an attempt, as labels.
const (
	scheduled     = "scheduled"
	unschedulable = "unschedulable"
	failed        = "error"
)

const subsystem = "scheduler"

var (
	attempts = metrics.NewCounterVec(&metrics.CounterOpts{Subsystem: subsystem, Name: "schedule_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Number of attempts to schedule pods, by the result."}, []string{"result", "profile"})
	attemptDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{Subsystem: subsystem, Name: "scheduling_attempt_duration_seconds", StabilityLevel: metrics.STABLE,
		Help: "Time to find a node for a pod, without the binding, by the result.", Buckets: metrics.ExponentialBuckets(0.00001, 2, 20)}, []string{"result", "profile"})
	podSLI = metrics.NewHistogramVec(&metrics.HistogramOpts{Subsystem: subsystem, Name: "pod_scheduling_sli_duration_seconds", StabilityLevel: metrics.BETA,
		Help: "Time from when a pod entered the queue until it was bound, by the number of attempts.", Buckets: metrics.ExponentialBuckets(0.001, 2, 20)}, []string{"attempts"})
	podAttempts = metrics.NewHistogram(&metrics.HistogramOpts{Subsystem: subsystem, Name: "pod_scheduling_attempts", StabilityLevel: metrics.STABLE,
		Help: "Number of attempts that a pod took to be scheduled.", Buckets: metrics.ExponentialBuckets(1, 2, 5)})
	pendingPods = metrics.NewGaugeVec(&metrics.GaugeOpts{Subsystem: subsystem, Name: "pending_pods", StabilityLevel: metrics.STABLE,
		Help: "Number of pods that wait for a node, by the place in the queue."}, []string{"queue"})
	missedDeadlines = metrics.NewCounter(&metrics.CounterOpts{Subsystem: subsystem, Name: "start_deadlines_missed_total", StabilityLevel: metrics.ALPHA,
		Help: "Number of pods that had no node when their fairlead.io/start-deadline passed."})
	droppedEvents = metrics.NewCounter(&metrics.CounterOpts{Subsystem: subsystem, Name: "events_dropped_total", StabilityLevel: metrics.ALPHA,
		Help: "Number of events that were not written because too many were waiting."})
	preemptionVictims = metrics.NewHistogram(&metrics.HistogramOpts{Subsystem: subsystem, Name: "preemption_victims", StabilityLevel: metrics.STABLE,
		Help: "Number of pods evicted by one preemption.", Buckets: metrics.ExponentialBuckets(1, 2, 7)})
	preemptionAttempts = metrics.NewCounter(&metrics.CounterOpts{Subsystem: subsystem, Name: "preemption_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Number of times that pods were looked for to preempt."})

	register sync.Once
)

func registerMetrics() {
	register.Do(func() {
		legacyregistry.MustRegister(attempts, attemptDuration, podSLI, podAttempts, pendingPods, missedDeadlines, droppedEvents, preemptionVictims, preemptionAttempts)
	})
}

func observeAttempt(result, profile string, took time.Duration) {
	attempts.WithLabelValues(result, profile).Inc()
	attemptDuration.WithLabelValues(result, profile).Observe(took.Seconds())
}
