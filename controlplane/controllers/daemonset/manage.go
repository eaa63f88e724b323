// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	burst      = 250 // writes of one sync
	minBackoff = time.Second
	maxBackoff = 15 * time.Minute
)

// failure remembers how a DaemonSet fares on one node.
type failure struct {
	delay time.Duration
	until time.Time
}

// manage creates the missing pods and deletes those that failed, are too many, or run where they should not.
func (s *state) manage(ctx context.Context) error {
	var create []string
	var remove []*corev1.Pod
	known := map[string]bool{}
	for _, node := range s.nodes {
		known[node.Name] = true
		p := fits(s.ds, node)
		here := s.byNode[node.Name]
		switch {
		case !p.stay:
			remove = append(remove, controller.Filter(here, controller.Active)...)
		default:
			running, failed := s.sortOut(node.Name, here)
			remove = append(remove, failed...)
			remove = append(remove, s.surplus(running)...)
			if p.start && len(here) == 0 {
				create = append(create, node.Name)
			}
		}
	}
	for node, pods := range s.byNode {
		if !known[node] { // pinned to a node that is gone and never bound: nobody else would delete it
			remove = append(remove, controller.Filter(pods, func(p *corev1.Pod) bool { return p.Spec.NodeName == "" && controller.Active(p) })...)
		}
	}
	return s.apply(ctx, create, remove)
}

// sortOut splits a node's pods into those that count and finished ones to delete. A pod that keeps failing is deleted ever more slowly.
func (s *state) sortOut(node string, pods []*corev1.Pod) (running, finished []*corev1.Pod) {
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			if wait := s.backOff(node); wait > 0 {
				s.queue.AddAfter(s.key, wait)
				continue
			}
			s.c.Events.Eventf(s.ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node)
			finished = append(finished, pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			s.c.Events.Eventf(s.ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, node)
			finished = append(finished, pod)
		default:
			running = append(running, pod)
		}
	}
	return running, finished
}

// backOff says how long the deletion of a failed pod has to wait, 0 when it may happen, which makes the next wait longer.
func (s *state) backOff(node string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.c.Clock.Now()
	for k, f := range s.backoff {
		if now.After(f.until.Add(2 * maxBackoff)) {
			delete(s.backoff, k)
		}
	}
	key := fmt.Sprintf("%s/%d/%s", s.ds.UID, s.ds.Generation, node)
	f := s.backoff[key]
	if wait := f.until.Sub(now); wait > 0 {
		return wait
	}
	f.delay = min(max(2*f.delay, minBackoff), maxBackoff)
	f.until = now.Add(f.delay)
	s.backoff[key] = f
	return 0
}

// surplus are the running pods of one node that are too many: all but the oldest bound one, or, during an update with surge, all but the oldest of the old and
// the oldest of the new.
func (s *state) surplus(running []*corev1.Pod) []*corev1.Pod {
	if len(running) < 2 {
		return nil
	}
	slices.SortFunc(running, func(a, b *corev1.Pod) int {
		return cmp.Or(-cmp.Compare(bound(a), bound(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	if surge, _ := s.limits(len(s.nodes)); surge == 0 {
		return running[1:]
	}
	var old, current *corev1.Pod
	var out []*corev1.Pod
	for _, pod := range running {
		keep := &old
		if s.isCurrent(pod) {
			keep = &current
		}
		if *keep == nil {
			*keep = pod
		} else {
			out = append(out, pod)
		}
	}
	// The old one is superfluous as soon as the new one is available.
	if old != nil && current != nil {
		if ok, _ := controller.Available(current, s.ds.Spec.MinReadySeconds, s.c.Clock.Now()); ok {
			out = append(out, old)
		}
	}
	return out
}

func bound(pod *corev1.Pod) int {
	if pod.Spec.NodeName != "" {
		return 1
	}
	return 0
}

func (s *state) isCurrent(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.ControllerRevisionHashLabelKey] == s.hash
}

// apply creates a pod for each node and deletes pods, at most burst of each.
func (s *state) apply(ctx context.Context, create []string, remove []*corev1.Pod) error {
	if len(create)+len(remove) == 0 {
		return nil
	}
	s.wrote = true
	slices.Sort(create)
	create, remove = create[:min(burst, len(create))], remove[:min(burst, len(remove))]
	uids := make([]types.UID, len(remove))
	for i, pod := range remove {
		uids[i] = pod.UID
	}
	s.expect.Expect(s.key, len(create), uids...)
	ok, err := controller.SlowStart(len(create), func(i int) error {
		_, err := s.pods.Create(ctx, podFor(s.ds, create[i], s.hash), s.ds)
		return err
	})
	if failed := len(create) - ok; failed > 0 {
		s.expect.CreatedN(s.key, failed)
	}
	for i, e := range controller.Parallel(len(remove), func(i int) error { return s.pods.Delete(ctx, remove[i], s.ds) }) {
		if e != nil {
			s.expect.Deleted(s.key, uids[i])
			if err == nil && !apierrors.IsNotFound(e) {
				err = e
			}
		}
	}
	return err
}

// limits resolves maxSurge and maxUnavailable against the number of nodes that should run a pod; percentages round up.
func (s *state) limits(desired int) (surge, unavailable int) {
	r := s.ds.Spec.UpdateStrategy.RollingUpdate
	if s.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || r == nil {
		return 0, 1
	}
	resolve := func(v *intstr.IntOrString, otherwise int32) int {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(otherwise)), desired, true)
		if err != nil {
			return int(otherwise)
		}
		return n
	}
	surge, unavailable = resolve(r.MaxSurge, 0), resolve(r.MaxUnavailable, 1)
	if desired > 0 && surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}
