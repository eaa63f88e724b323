// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"cmp"
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// state is one sync of one StatefulSet.
type state struct {
	*loop
	key     string
	set     *appsv1.StatefulSet // a copy, at the update revision
	now     time.Time
	history controller.History

	current, update     *appsv1.ControllerRevision
	currentSet          *appsv1.StatefulSet // the set as the current revision has it
	collisions          int32
	replicas            []*corev1.Pod // by ordinal from the start; nil: there is none
	condemned           []*corev1.Pod // surplus pods, highest ordinal first
	wait                time.Duration
	created, createdOld int // by this sync, of the update and of the current revision
	removed, removedOld int
}

func (s *state) load(ctx context.Context, selector labels.Selector) error {
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return s.c.Client.AppsV1().StatefulSets(s.set.Namespace).Get(ctx, s.set.Name, metav1.GetOptions{})
	}
	revisions, err := controller.ClaimRevisions(ctx, s.c.Client, s.set, gvk, s.set.Spec.Selector, s.revisionsOf.Candidates(s.set), fresh)
	if err != nil {
		return err
	}
	s.history = controller.History{Client: s.c.Client, Owner: s.set, Kind: gvk, Template: &s.set.Spec.Template, Revisions: revisions}
	s.collisions = ptr.Deref(s.set.Status.CollisionCount, 0)
	if s.update, err = s.history.Current(ctx, &s.collisions); err != nil {
		return err
	}
	s.current = s.update
	for _, r := range s.history.Revisions {
		if r.Name == s.set.Status.CurrentRevision {
			s.current = r
		}
	}
	if s.currentSet, err = controller.ApplyRevision(s.set, s.current); err != nil {
		return err
	}
	claim := controller.Claim[*corev1.Pod]{
		Owner: s.set, Kind: gvk, Selector: selector, Patch: s.podIO.Patch, Fresh: fresh,
		Filter: func(p *corev1.Pod) bool { return ordinal(s.set, p) >= 0 },
	}
	mine, err := claim.Run(ctx, s.podsOf.Candidates(s.set))
	if err != nil {
		return err
	}
	start, n := s.start(), int(ptr.Deref(s.set.Spec.Replicas, 1))
	s.replicas = make([]*corev1.Pod, n)
	for _, pod := range mine {
		switch i := ordinal(s.set, pod) - start; {
		case ordinal(s.set, pod) < 0: // carries our reference, but not a name of ours
		case i >= 0 && i < n:
			s.replicas[i] = pod
		default:
			s.condemned = append(s.condemned, pod)
		}
	}
	slices.SortFunc(s.condemned, func(a, b *corev1.Pod) int { return -cmp.Compare(ordinal(s.set, a), ordinal(s.set, b)) })
	return nil
}

func (s *state) start() int {
	if s.set.Spec.Ordinals != nil {
		return int(s.set.Spec.Ordinals.Start)
	}
	return 0
}

func (s *state) ordered() bool { return s.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement }

func (s *state) rolling() bool {
	return s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType || s.set.Spec.UpdateStrategy.Type == ""
}

// partition is how many of the lowest replicas stay at the current revision.
func (s *state) partition() (n int, set bool) {
	if r := s.set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition), true
	}
	return 0, false
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// healthy: running, ready for minReadySeconds, and not being deleted. It notes when a pod will be.
func (s *state) healthy(pod *corev1.Pod) bool {
	if pod == nil || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		return false
	}
	ok, wait := controller.Available(pod, s.set.Spec.MinReadySeconds, s.now)
	if wait > 0 && (s.wait == 0 || wait < s.wait) {
		s.wait = wait
	}
	return ok
}

// status is computed from the pods as loaded and what this sync did to them.
func (s *state) status() appsv1.StatefulSetStatus {
	st := appsv1.StatefulSetStatus{
		ObservedGeneration: s.set.Generation, CurrentRevision: s.current.Name, UpdateRevision: s.update.Name,
		CollisionCount: &s.collisions, Conditions: s.set.Status.Conditions,
	}
	for _, pod := range append(slices.Clone(s.replicas), s.condemned...) {
		if pod == nil {
			continue
		}
		st.Replicas++
		if pod.Status.Phase == corev1.PodRunning && controller.Ready(pod) {
			st.ReadyReplicas++
			if ok, _ := controller.Available(pod, s.set.Spec.MinReadySeconds, s.now); ok {
				st.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(pod) == s.current.Name {
			st.CurrentReplicas++
		}
		if revisionOf(pod) == s.update.Name {
			st.UpdatedReplicas++
		}
	}
	st.Replicas += int32(s.created + s.createdOld)
	st.CurrentReplicas += int32(s.createdOld - s.removedOld)
	st.UpdatedReplicas += int32(s.created - s.removed)
	if s.current.Name == s.update.Name { // the two counts are of the same pods
		st.CurrentReplicas += int32(s.created - s.removed)
		st.UpdatedReplicas += int32(s.createdOld - s.removedOld)
	}
	if s.rolling() && st.UpdatedReplicas == st.Replicas && st.ReadyReplicas == st.Replicas && int(st.Replicas) == len(s.replicas) {
		st.CurrentRevision, st.CurrentReplicas = st.UpdateRevision, st.UpdatedReplicas
	}
	return st
}

func (s *state) liveRevisions() map[string]bool {
	live := map[string]bool{s.current.Name: true, s.update.Name: true, s.set.Status.CurrentRevision: true}
	for _, pod := range append(slices.Clone(s.replicas), s.condemned...) {
		if pod != nil {
			live[revisionOf(pod)] = true
		}
	}
	return live
}
