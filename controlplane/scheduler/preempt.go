// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

// preempt looks for pods to remove so that item fits. If it finds some it nominates item to their node and returns the node's name and the removal, to be
// run without the lock; otherwise it returns why not.
func (s *Scheduler) preempt(item *queue.Item) (nominated string, remove func(context.Context), message string) {
	preemptionAttempts.Inc()
	way := s.eval.Preempt(item.Request)
	if way.Waiting != nil {
		return way.Waiting.Name, nil, way.Message
	}
	if way.Node == nil {
		return "", nil, way.Message
	}
	preemptionVictims.Observe(float64(len(way.Victims)))
	var victims []*v1.Pod
	for _, p := range way.Victims {
		p.Evicting = true
		victims = append(victims, p.Object)
	}
	node := way.Node.Name
	// Pods of lower priority that waited for this node's room wait no more: it is not theirs now.
	for _, p := range append(way.Node.Nominated[:0:0], way.Node.Nominated...) {
		if p.Priority < item.Class.Priority {
			s.state.Denominate(p.Object.UID)
			s.queue.Hurry(p.Object.UID)
		}
	}
	s.state.Nominate(item.Pod, node, item.Class.Shape)
	pod := item.Pod
	return node, func(ctx context.Context) {
		for _, victim := range victims {
			if err := s.evict(ctx, victim, pod, node); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Cannot preempt; the pod is tried again", "victim", klog.KObj(victim), "preemptor", klog.KObj(pod))
				s.locked(func() {
					for _, v := range victims {
						if p := s.state.Pod(v.UID); p != nil {
							p.Evicting = false
						}
					}
					s.state.Denominate(pod.UID)
					s.queue.Hurry(pod.UID)
				})
				return
			}
		}
	}, ""
}

// evict marks victim as disrupted and deletes it, with its own grace period. A victim that is gone or going is no error.
func (s *Scheduler) evict(ctx context.Context, victim, preemptor *v1.Pod, node string) error {
	if victim.DeletionTimestamp != nil {
		return nil
	}
	pods := s.client.CoreV1().Pods(victim.Namespace)
	condition := v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler,
		Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", preemptor.Spec.SchedulerName),
		LastTransitionTime: metav1.NewTime(s.clock.Now()), ObservedGeneration: victim.Generation}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": victim.UID}, "status": map[string]any{"conditions": []v1.PodCondition{condition}}})
	if err != nil {
		return err
	}
	if _, err := pods.Patch(ctx, victim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("mark %s/%s as disrupted: %w", victim.Namespace, victim.Name, err)
	}
	err = pods.Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	s.events.normal(victim, "Preempted", "Preempting", fmt.Sprintf("Preempted by pod %s on node %s", preemptor.UID, node))
	return nil
}

func (s *Scheduler) setBudget(old, pdb *policyv1.PodDisruptionBudget) {
	if old != nil {
		s.deleteBudget(old)
	}
	selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
	if err != nil {
		return // the API server lets no such selector in
	}
	b := &placement.Budget{Name: pdb.Name, Selector: selector, Allowed: pdb.Status.DisruptionsAllowed, Disrupted: map[string]bool{}}
	for name, at := range pdb.Status.DisruptedPods {
		if s.clock.Since(at.Time) < 2*time.Minute { // later the disruption controller forgets it, too
			b.Disrupted[name] = true
		}
	}
	s.eval.Budgets[pdb.Namespace] = append(s.eval.Budgets[pdb.Namespace], b)
}

func (s *Scheduler) deleteBudget(pdb *policyv1.PodDisruptionBudget) {
	var left []*placement.Budget
	for _, b := range s.eval.Budgets[pdb.Namespace] {
		if b.Name != pdb.Name {
			left = append(left, b)
		}
	}
	if len(left) == 0 {
		delete(s.eval.Budgets, pdb.Namespace)
	} else {
		s.eval.Budgets[pdb.Namespace] = left
	}
}
