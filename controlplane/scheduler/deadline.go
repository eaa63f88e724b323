// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
)

// DeadlineAnnotation says by when a pod should have a node: a time (RFC 3339), or a duration from the pod's creation such as "30s". Among pods of
// equal priority the earliest deadline goes first; a deadline that passes is told by an event and counted, and changes nothing else.
const DeadlineAnnotation = "fairlead.io/start-deadline"

// deadline reads a pod's start deadline; zero if it has none or the annotation makes no sense.
func (s *Scheduler) deadline(pod *v1.Pod) time.Time {
	text := pod.Annotations[DeadlineAnnotation]
	if text == "" || !s.deadlines {
		return time.Time{}
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at
	}
	after, err := time.ParseDuration(text)
	if err != nil || after <= 0 {
		s.events.warn(pod, "InvalidStartDeadline", "Scheduling", DeadlineAnnotation+" must be an RFC 3339 time or a positive duration such as 30s, not "+text)
		return time.Time{}
	}
	return pod.CreationTimestamp.Add(after)
}

func mapsEqual(a, b map[string]string) bool { return maps.Equal(a, b) }
