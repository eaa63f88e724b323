// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// burst bounds the writes of one sync, so that a huge set does not hold a worker for minutes.
const burst = 500

// manage creates or deletes pods until as many are active as spec.replicas says. Its expectations are satisfied when it is called.
func (l *loop) manage(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	missing := int(ptr.Deref(rs.Spec.Replicas, 1)) - len(active)
	switch {
	case missing > 0:
		return l.create(ctx, key, rs, min(missing, burst))
	case missing < 0:
		return l.delete(ctx, key, rs, active, min(-missing, burst))
	}
	return nil
}

func (l *loop) create(ctx context.Context, key string, rs *appsv1.ReplicaSet, n int) error {
	l.expect.Expect(key, n)
	ref := metav1.NewControllerRef(rs, l.kind.GVK)
	ok, err := controller.SlowStart(n, func(int) error {
		_, err := l.pods.Create(ctx, controller.FromTemplate(&rs.Spec.Template, rs, ref), rs)
		return err
	})
	if failed := n - ok; failed > 0 {
		l.expect.CreatedN(key, failed)
	}
	return err
}

func (l *loop) delete(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod, n int) error {
	controller.SortForDeletion(active, l.siblingPods(rs), l.c.Clock.Now())
	victims := active[:n]
	uids := make([]types.UID, n)
	for i, pod := range victims {
		uids[i] = pod.UID
	}
	l.expect.Expect(key, 0, uids...)
	var firstErr error
	for i, err := range controller.Parallel(n, func(i int) error { return l.pods.Delete(ctx, victims[i], rs) }) {
		if err == nil {
			continue
		}
		l.expect.Deleted(key, uids[i])
		if firstErr == nil && !apierrors.IsNotFound(err) {
			firstErr = err
		}
	}
	return firstErr
}

// status computes rs's status, and when it should be computed again because pods will have been ready for minReadySeconds.
func (l *loop) status(rs *appsv1.ReplicaSet, mine, active []*corev1.Pod, manageErr error) (appsv1.ReplicaSetStatus, time.Duration) {
	s := *rs.Status.DeepCopy()
	s.ObservedGeneration = rs.Generation
	s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas = int32(len(active)), 0, 0, 0
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	now := l.c.Clock.Now()
	var recheck time.Duration
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			s.FullyLabeledReplicas++
		}
		if controller.Ready(pod) {
			s.ReadyReplicas++
		}
		ok, wait := controller.Available(pod, rs.Spec.MinReadySeconds, now)
		if ok {
			s.AvailableReplicas++
		}
		if wait > 0 && (recheck == 0 || wait < recheck) {
			recheck = wait
		}
	}
	if !l.kind.NoTerminating {
		terminating := controller.Filter(mine, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil && !controller.Finished(p) })
		s.TerminatingReplicas = ptr.To(int32(len(terminating)))
	}
	s.Conditions = failureCondition(s.Conditions, manageErr, int(ptr.Deref(rs.Spec.Replicas, 1)) > len(active), metav1.NewTime(now))
	return s, recheck
}

// failureCondition sets or removes the ReplicaFailure condition.
func failureCondition(old []appsv1.ReplicaSetCondition, err error, creating bool, now metav1.Time) []appsv1.ReplicaSetCondition {
	others := controller.Filter(old, func(c appsv1.ReplicaSetCondition) bool { return c.Type != appsv1.ReplicaSetReplicaFailure })
	if err == nil {
		return others
	}
	reason := "FailedDelete"
	if creating {
		reason = "FailedCreate"
	}
	for _, c := range old {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Reason == reason {
			return append(others, c)
		}
	}
	return append(others, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: err.Error(), LastTransitionTime: now,
	})
}

func sameStatus(a, b *appsv1.ReplicaSetStatus) bool { return equality.Semantic.DeepEqual(a, b) }
