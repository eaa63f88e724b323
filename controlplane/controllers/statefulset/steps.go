// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// fill makes every replica exist. In ordered sets it stops at the first that is not healthy. done means that the next stage may go on.
func (s *state) fill(ctx context.Context) (done bool, err error) {
	done = true
	for i, pod := range s.replicas {
		switch {
		case pod == nil:
			ok, err := s.create(ctx, s.start()+i)
			if err != nil || !ok && s.ordered() {
				return false, err
			}
			if done = false; s.ordered() {
				return false, nil
			}
		case controller.Finished(pod) && pod.DeletionTimestamp == nil:
			reason, word := "RecreatingFailedPod", "failed"
			if pod.Status.Phase == corev1.PodSucceeded {
				reason, word = "RecreatingTerminatedPod", "terminated"
			}
			s.c.Events.Eventf(s.set, corev1.EventTypeWarning, reason, "StatefulSet %s is recreating %s Pod %s", s.key, word, pod.Name)
			if err := s.delete(ctx, pod); err != nil {
				return false, err
			}
			if done = false; s.ordered() {
				return false, nil
			}
		default:
			if pod.DeletionTimestamp == nil && pod.Spec.NodeName == "" {
				// Its claims may have been deleted, or their creation may have failed half-way.
				if _, err := s.ensureClaims(ctx, pod, s.start()+i); err != nil {
					return false, err
				}
			}
			if s.ordered() && !s.healthy(pod) {
				return false, nil
			}
		}
	}
	return done, nil
}

// shrink deletes the surplus from the highest ordinal down: one at a time in ordered sets, and only when everything else is healthy.
func (s *state) shrink(ctx context.Context) (done bool, err error) {
	done = true
	var firstUnhealthy *corev1.Pod // of all: it may go even though it is not healthy
	for i := len(s.condemned) - 1; i >= 0 && firstUnhealthy == nil; i-- {
		if !s.healthy(s.condemned[i]) {
			firstUnhealthy = s.condemned[i]
		}
	}
	for _, pod := range s.condemned {
		switch {
		case pod.DeletionTimestamp != nil:
			if done = false; s.ordered() {
				return false, nil
			}
		case s.ordered() && !s.healthy(pod) && pod != firstUnhealthy:
			return false, nil
		default:
			if err := s.delete(ctx, pod); err != nil {
				return false, err
			}
			if done = false; s.ordered() {
				return false, nil
			}
		}
	}
	return done, nil
}

// roll deletes pods of old revisions from the highest ordinal down to the partition, as long as no more than maxUnavailable replicas are unhealthy.
func (s *state) roll(ctx context.Context) (done bool, err error) {
	if !s.rolling() {
		return true, nil
	}
	partition, _ := s.partition()
	down := 0
	for _, pod := range s.replicas {
		if !s.healthy(pod) {
			down++
		}
	}
	room := s.maxUnavailable() - down
	for i := len(s.replicas) - 1; i >= partition; i-- {
		pod := s.replicas[i]
		if pod == nil || pod.DeletionTimestamp != nil || revisionOf(pod) == s.update.Name {
			continue
		}
		if s.healthy(pod) {
			if room <= 0 {
				break
			}
			room--
		} // a broken pod of an old revision is down already: replacing it costs nothing
		if err := s.delete(ctx, pod); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (s *state) maxUnavailable() int {
	r := s.set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, len(s.replicas), false)
	if err != nil {
		return 1
	}
	return max(1, n)
}

// create creates the pod of an ordinal and its claims. It returns false when a claim of that name is still on its way out.
func (s *state) create(ctx context.Context, i int) (bool, error) {
	of, revision := s.set, s.update
	if s.wantsCurrent(i) {
		of, revision = s.currentSet, s.current
	}
	pod := newPod(of, i, revision.Name)
	if ok, err := s.ensureClaims(ctx, pod, i); err != nil || !ok {
		return false, err
	}
	s.raise(1)
	created, err := s.c.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, createOptions)
	if err != nil {
		s.expect.Created(s.key)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return false, err
		}
		s.c.Events.Eventf(s.set, corev1.EventTypeWarning, "FailedCreate", "create Pod %s in StatefulSet %s failed error: %v", pod.Name, s.set.Name, err)
		return false, fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	s.c.Events.Eventf(s.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Pod %s in StatefulSet %s successful", created.Name, s.set.Name)
	if revision.Name == s.update.Name {
		s.created++
	} else {
		s.createdOld++
	}
	return true, nil
}

// wantsCurrent reports whether the pod of ordinal i gets the current revision instead of the update's: below the partition, and, while an update without a
// partition runs, below what the update has reached.
func (s *state) wantsCurrent(i int) bool {
	if !s.rolling() || s.current.Name == s.update.Name {
		return false
	}
	if n, set := s.partition(); set {
		return i < s.start()+n
	}
	return i < s.start()+int(s.set.Status.CurrentReplicas)
}

func (s *state) delete(ctx context.Context, pod *corev1.Pod) error {
	s.raise(0, pod.UID)
	if err := s.podIO.Delete(ctx, pod, s.set); err != nil {
		s.expect.Deleted(s.key, pod.UID)
		return controller.IgnoreNotFound(err)
	}
	switch revisionOf(pod) {
	case s.update.Name:
		s.removed++
	case s.current.Name:
		s.removedOld++
	}
	return nil
}

// raise adds to this sync's expectations: unlike other controllers this one writes in several steps.
func (s *state) raise(creates int, uids ...types.UID) { s.expect.Raise(s.key, creates, uids...) }
