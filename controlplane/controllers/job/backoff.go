// SPDX-License-Identifier: Apache-2.0

package job

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	firstDelay = 10 * time.Second // after the first failure
	maxDelay   = 10 * time.Minute
)

// record counts a Job's failures since its last success. It is kept in memory: a restart forgives them.
type record struct {
	failures int
	last     time.Time
	ignored  map[types.UID]bool // pods among them that no status records, as long as they are there
}

func delay(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	if failures > 7 { // 10 s doubled six times is beyond the maximum
		return maxDelay
	}
	return min(firstDelay<<(failures-1), maxDelay)
}

// note records the end of a pod.
func (s *state) note(pod *corev1.Pod, success bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if success {
		delete(s.failures, s.key)
		return
	}
	r := s.failures[s.key]
	r.failures++
	if end := s.endOf(pod); end.After(r.last) {
		r.last = end
	}
	s.failures[s.key] = r
}

// noteIgnored records the end of a pod that the failure policy ignores, once: no status says that this was done, and the next sync may still see the pod's finalizer.
func (s *state) noteIgnored(pod *corev1.Pod) {
	s.mu.Lock()
	known := s.failures[s.key].ignored
	s.mu.Unlock()
	if known[pod.UID] {
		return
	}
	s.note(pod, false)
	ignored := map[types.UID]bool{pod.UID: true}
	for _, other := range s.pods {
		if known[other.UID] {
			ignored[other.UID] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.failures[s.key]
	r.ignored = ignored
	s.failures[s.key] = r
}

func (l *loop) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.failures, key)
}

// backOff is how long new pods have to wait.
func (s *state) backOff() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.failures[s.key]
	return r.last.Add(delay(r.failures)).Sub(s.now)
}

// indexBackOff is how long the successor of before has to wait.
func (s *state) indexBackOff(before *corev1.Pod) time.Duration {
	fails, ignored := indexFailures(before)
	return s.endOf(before).Add(delay(int(fails+ignored) + 1)).Sub(s.now)
}

// endOf is when pod ended: its last container's end, else the time of the condition or deletion that ended it.
func (s *state) endOf(pod *corev1.Pod) time.Time {
	var end time.Time
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	if !end.IsZero() {
		return end
	}
	if c := controller.PodCondition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && controller.Finished(pod) && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		end = pod.DeletionTimestamp.Time
		if g := pod.DeletionGracePeriodSeconds; g != nil {
			end = end.Add(-time.Duration(*g) * time.Second)
		}
		return end
	}
	return s.now
}
