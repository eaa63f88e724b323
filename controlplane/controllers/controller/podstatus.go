// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PodCondition returns pod's condition of type t, or nil.
func PodCondition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready reports whether pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	c := PodCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available reports whether pod has been ready for minReadySeconds at now. When it is ready but not long enough, wait says how much longer.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) (ok bool, wait time.Duration) {
	if !Ready(pod) {
		return false, 0
	}
	if minReadySeconds == 0 {
		return true, 0
	}
	since := PodCondition(pod, corev1.PodReady).LastTransitionTime
	if since.IsZero() {
		return false, 0
	}
	wait = since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	if wait <= 0 {
		return true, 0
	}
	return false, wait
}

// Finished reports whether pod has reached a terminal phase.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active reports whether pod is neither finished nor being deleted.
func Active(pod *corev1.Pod) bool {
	return !Finished(pod) && pod.DeletionTimestamp == nil
}

// Filter returns those of pods for which keep holds.
func Filter[T any](pods []T, keep func(T) bool) []T {
	var out []T
	for _, p := range pods {
		if keep(p) {
			out = append(out, p)
		}
	}
	return out
}

// DeletionCost is the value of the pod-deletion-cost annotation; 0 when absent or malformed.
func DeletionCost(pod *corev1.Pod) int32 {
	n, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// SortForDeletion orders pods so that those whose loss matters least come first, as Kubernetes documents it for a scale-down: unassigned, not
// running, not ready, cheap by annotation, on nodes with many of the related pods, ready for a short time, restarted often, young. Times are compared by
// order of magnitude, so that among similar ones the choice is spread. related counts the pods per node that rank nodes; nil ranks none.
func SortForDeletion(pods []*corev1.Pod, related map[string]int, now time.Time) {
	phase := map[corev1.PodPhase]int{corev1.PodPending: 0, "": 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		if c := cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phase[a.Status.Phase], phase[b.Status.Phase]),
			falseFirst(Ready(a), Ready(b)),
			cmp.Compare(DeletionCost(a), DeletionCost(b)),
			-cmp.Compare(related[a.Spec.NodeName], related[b.Spec.NodeName]),
		); c != 0 {
			return c
		}
		if Ready(a) && Ready(b) {
			if c := cmp.Compare(magnitude(readySince(a), now), magnitude(readySince(b), now)); c != 0 {
				return c
			}
		}
		return cmp.Or(
			-cmp.Compare(restarts(a), restarts(b)),
			cmp.Compare(magnitude(a.CreationTimestamp, now), magnitude(b.CreationTimestamp, now)),
			cmp.Compare(a.UID, b.UID),
		)
	})
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func readySince(pod *corev1.Pod) metav1.Time {
	return PodCondition(pod, corev1.PodReady).LastTransitionTime
}

// magnitude is the binary logarithm of t's age in seconds; an unset time counts as just now.
func magnitude(t metav1.Time, now time.Time) int {
	if t.IsZero() {
		return -1
	}
	age := now.Sub(t.Time).Seconds()
	if age < 1 {
		return 0
	}
	return int(math.Log2(age)) + 1
}

// restarts is the highest restart count of pod's containers.
func restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, c := range pod.Status.ContainerStatuses {
		n = max(n, c.RestartCount)
	}
	return n
}
