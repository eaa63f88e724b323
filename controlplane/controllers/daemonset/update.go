// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// update replaces pods of old revisions: with surge by starting the new one first, otherwise by deleting the old one.
func (s *state) update(ctx context.Context) error {
	desired := 0
	for _, node := range s.nodes {
		if fits(s.ds, node).start {
			desired++
		}
	}
	surge, unavailable := s.limits(desired)
	if surge > 0 {
		return s.surge(ctx, surge)
	}
	return s.replace(ctx, unavailable)
}

// replace deletes old pods: all that are not available anyway, and of the others as many as maxUnavailable leaves.
func (s *state) replace(ctx context.Context, maxUnavailable int) error {
	var broken, good []*corev1.Pod
	down := 0
	for _, node := range s.nodes {
		p := fits(s.ds, node)
		if !p.stay {
			continue
		}
		old, current := s.pair(node.Name)
		switch {
		case old == nil && current == nil:
			if p.start {
				down++ // manage is about to create one, or it is on its way out
			}
		case current != nil && old == nil:
			if !s.available(current) {
				down++
			}
		case current != nil: // both: manage decides
		case old.DeletionTimestamp != nil:
			down++
		case !s.available(old):
			down++
			broken = append(broken, old)
		default:
			good = append(good, old)
		}
	}
	if n := maxUnavailable - down; n > 0 {
		broken = append(broken, good[:min(n, len(good))]...)
	}
	return s.apply(ctx, nil, broken)
}

// surge starts new pods beside old ones: on nodes where the old one is not available at once, elsewhere as many as maxSurge leaves. manage deletes the old one
// when the new one is available.
func (s *state) surge(ctx context.Context, maxSurge int) error {
	var broken, good []string
	var remove []*corev1.Pod
	surging := 0
	for _, node := range s.nodes {
		p := fits(s.ds, node)
		old, current := s.pair(node.Name)
		switch {
		case old == nil:
		case current != nil && s.available(current):
			if old.DeletionTimestamp == nil {
				remove = append(remove, old)
			}
		case current != nil:
			surging++
		case !p.start:
			// No new pod may start here, so the old one is replaced never or, when it was deleted, not at all.
		case old.DeletionTimestamp != nil || !s.available(old):
			broken = append(broken, node.Name)
		default:
			good = append(good, node.Name)
		}
	}
	if n := maxSurge - surging; n > 0 {
		broken = append(broken, good[:min(n, len(good))]...)
	}
	return s.apply(ctx, broken, remove)
}

// pair finds a node's pod of an old revision and of the current one, finished ones left aside.
func (s *state) pair(node string) (old, current *corev1.Pod) {
	for _, pod := range s.byNode[node] {
		switch {
		case controller.Finished(pod):
		case s.isCurrent(pod):
			current = pod
		default:
			old = pod
		}
	}
	return old, current
}

func (s *state) available(pod *corev1.Pod) bool {
	ok, _ := controller.Available(pod, s.ds.Spec.MinReadySeconds, s.c.Clock.Now())
	return ok && pod.DeletionTimestamp == nil
}

func (s *state) writeStatus(ctx context.Context) error {
	st := s.ds.Status.DeepCopy()
	st.ObservedGeneration = s.ds.Generation
	st.DesiredNumberScheduled, st.CurrentNumberScheduled, st.NumberMisscheduled, st.NumberReady = 0, 0, 0, 0
	st.UpdatedNumberScheduled, st.NumberAvailable = 0, 0
	now := s.c.Clock.Now()
	var recheck time.Duration
	for _, node := range s.nodes {
		here := s.byNode[node.Name]
		if !fits(s.ds, node).start {
			if len(here) > 0 {
				st.NumberMisscheduled++
			}
			continue
		}
		st.DesiredNumberScheduled++
		if len(here) == 0 {
			continue
		}
		st.CurrentNumberScheduled++
		// With a surge, the node counts once, by the best of its pods.
		var ready, available, updated bool
		for _, pod := range here {
			up, wait := controller.Available(pod, s.ds.Spec.MinReadySeconds, now)
			ready, available, updated = ready || controller.Ready(pod), available || up, updated || s.isCurrent(pod)
			if wait > 0 && (recheck == 0 || wait < recheck) {
				recheck = wait
			}
		}
		st.NumberReady += count(ready)
		st.NumberAvailable += count(available)
		st.UpdatedNumberScheduled += count(updated)
	}
	st.NumberUnavailable = st.DesiredNumberScheduled - st.NumberAvailable
	if recheck > 0 {
		s.queue.AddAfter(s.key, recheck)
	}
	cached, err := s.daemons.DaemonSets(s.ds.Namespace).Get(s.ds.Name)
	if err != nil || equality.Semantic.DeepEqual(*st, cached.Status) {
		return controller.IgnoreNotFound(err)
	}
	ds := s.ds.DeepCopy()
	ds.Status = *st
	_, err = s.c.Client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, ds, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

func count(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
