// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"
	"fmt"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// status computes everything but the Progressing and ReplicaFailure conditions, which it keeps.
func (r *rollout) status() appsv1.DeploymentStatus {
	s := appsv1.DeploymentStatus{
		ObservedGeneration: r.d.Generation, CollisionCount: r.d.Status.CollisionCount, Conditions: r.d.Status.DeepCopy().Conditions, TerminatingReplicas: ptr.To[int32](0),
	}
	for _, rs := range r.sets {
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		*s.TerminatingReplicas += ptr.Deref(rs.Status.TerminatingReplicas, 0)
	}
	if r.new != nil {
		s.UpdatedReplicas = r.new.Status.Replicas
	}
	s.UnavailableReplicas = max(0, specReplicas(r.sets)-s.AvailableReplicas)
	if s.AvailableReplicas >= *r.d.Spec.Replicas-maxUnavailable(r.d) {
		r.set(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.set(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	return s
}

// rolloutStatus writes the status of a sync that worked on a rollout, and comes back when the progress deadline ends.
func (r *rollout) rolloutStatus(ctx context.Context) error {
	s := r.status()
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.new != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.new.Name)
	}
	had := condition(&r.d.Status, appsv1.DeploymentProgressing)
	done := had != nil && had.Reason == "NewReplicaSetAvailable" && s.Replicas == s.UpdatedReplicas
	switch {
	case !hasDeadline(r.d):
		remove(&s, appsv1.DeploymentProgressing)
	case done:
	case complete(r.d, &s):
		r.set(&s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable", subject+" has successfully progressed.")
	case progressed(&r.d.Status, &s):
		// LastUpdateTime is what the deadline counts from, so every progress renews the condition even when status and reason stay.
		remove(&s, appsv1.DeploymentProgressing)
		r.set(&s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", subject+" is progressing.")
		if had != nil && had.Status == corev1.ConditionTrue {
			condition(&s, appsv1.DeploymentProgressing).LastTransitionTime = had.LastTransitionTime
		}
	case r.overdue(had):
		r.set(&s, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", subject+" has timed out progressing.")
	}
	remove(&s, appsv1.DeploymentReplicaFailure)
	if failure := r.replicaFailure(); failure != nil {
		s.Conditions = append(s.Conditions, *failure)
	}
	if err := r.writeStatus(ctx, s); err != nil {
		return err
	}
	r.comeBack(condition(&s, appsv1.DeploymentProgressing), &s)
	return nil
}

// replicaFailure is the ReplicaFailure condition of the current template's set, else of any other.
func (r *rollout) replicaFailure() *appsv1.DeploymentCondition {
	sets := r.old
	if r.new != nil {
		sets = append([]*appsv1.ReplicaSet{r.new}, sets...)
	}
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// overdue reports whether a rollout that is neither complete nor progressing has outlived its deadline.
func (r *rollout) overdue(had *appsv1.DeploymentCondition) bool {
	switch {
	case had == nil || had.Reason == "NewReplicaSetAvailable":
		return false
	case had.Reason == "ProgressDeadlineExceeded":
		return true
	}
	return !r.c.Clock.Now().Before(had.LastUpdateTime.Add(deadline(r.d)))
}

// comeBack asks for a sync when the deadline will have passed: no event announces that nothing happened.
func (r *rollout) comeBack(c *appsv1.DeploymentCondition, s *appsv1.DeploymentStatus) {
	if c == nil || complete(r.d, s) || c.Reason == "ProgressDeadlineExceeded" || c.Reason == "NewReplicaSetAvailable" {
		return
	}
	r.queue.AddAfter(r.key, max(c.LastUpdateTime.Add(deadline(r.d)).Sub(r.c.Clock.Now()), 0)+time.Second)
}

func (r *rollout) writeStatus(ctx context.Context, s appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(r.d.Status, s) {
		return nil
	}
	d := r.d.DeepCopy()
	d.Status = s
	_, err := r.c.Client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

// progressing sets the Progressing condition at once, outside the order of a normal status.
func (r *rollout) progressing(ctx context.Context, status corev1.ConditionStatus, reason, message string) error {
	before := r.d.Status.DeepCopy()
	r.set(&r.d.Status, appsv1.DeploymentProgressing, status, reason, message)
	if equality.Semantic.DeepEqual(before, &r.d.Status) {
		return nil
	}
	d, err := r.c.Client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, r.d, metav1.UpdateOptions{})
	if err == nil {
		r.d = d
	}
	return err
}

// pausedCondition notes a pause in the Progressing condition, so that the time spent paused does not count against the deadline. It reports whether it wrote.
func (r *rollout) pausedCondition(ctx context.Context) (bool, error) {
	if !hasDeadline(r.d) {
		return false, nil
	}
	c := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == "ProgressDeadlineExceeded" {
		return false, nil // a rollout that failed stays failed
	}
	noted := c != nil && c.Reason == "DeploymentPaused"
	switch {
	case r.d.Spec.Paused && !noted:
		return true, r.progressing(ctx, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused")
	case !r.d.Spec.Paused && noted:
		return true, r.progressing(ctx, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
	}
	return false, nil
}

func (r *rollout) set(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.c.Clock.Now())
	c := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if had := condition(s, t); had != nil {
		if had.Status == status && had.Reason == reason {
			return
		}
		if had.Status == status {
			c.LastTransitionTime = had.LastTransitionTime
		}
	}
	remove(s, t)
	s.Conditions = append(s.Conditions, c)
}

func remove(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = controller.Filter(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type != t })
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

func progressed(before, now *appsv1.DeploymentStatus) bool {
	return now.UpdatedReplicas > before.UpdatedReplicas ||
		now.Replicas-now.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		now.ReadyReplicas > before.ReadyReplicas || now.AvailableReplicas > before.AvailableReplicas
}

// hasDeadline: the largest number stands for none.
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func deadline(d *appsv1.Deployment) time.Duration {
	return time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second
}
