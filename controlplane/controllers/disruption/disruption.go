// SPDX-License-Identifier: Apache-2.0

// Package disruption tells, for each PodDisruptionBudget, how many of its pods may be evicted now.
//
// It watches PodDisruptionBudgets and Pods, and reads the scale of the pods' controllers. It writes the budgets' status, from which the eviction subresource of
// the API server decides, and clears DisruptionTarget conditions of evictions that never happened.
package disruption

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	// evictionTimeout is how long the API server's note that it let a pod be evicted is believed without the pod being deleted.
	evictionTimeout = 2 * time.Minute
	// staleTarget is how long a pod may carry a DisruptionTarget condition of an eviction that did not happen.
	staleTarget = 2 * time.Minute
)

type loop struct {
	c       *controller.Context
	queue   *controller.Queue
	targets *controller.Queue
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	sets    appslisters.ReplicaSetLister
	synced  []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("disruption-controller", "controllermanager")
	budgets, pods, sets := c.Informers.Policy().V1().PodDisruptionBudgets(), c.Informers.Core().V1().Pods(), c.Informers.Apps().V1().ReplicaSets()
	l := &loop{
		c: c, budgets: budgets.Lister(), pods: pods.Lister(), sets: sets.Lister(),
		synced: []cache.InformerSynced{budgets.Informer().HasSynced, pods.Informer().HasSynced, sets.Informer().HasSynced},
	}
	l.queue = c.Queue("disruption", l.sync)
	l.targets = c.Queue("disruption_target", l.clearTarget)
	controller.On(budgets.Informer(), l.queue.Enqueue)
	controller.Watch(pods.Informer(), l.podChanged)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.targets.Run(ctx, 1, l.synced...)
	}()
	err := l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
	<-done
	return err
}

// sync computes one budget's status. When that fails nothing may be disrupted: an unknown is a no.
func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	cached, err := l.budgets.PodDisruptionBudgets(namespace).Get(name)
	if err != nil || cached.DeletionTimestamp != nil {
		return controller.IgnoreNotFound(err)
	}
	budget := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return l.refuse(ctx, budget, err)
	}
	pods, err := l.pods.Pods(namespace).List(selector)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		l.c.Events.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, err := l.counts(ctx, budget, pods)
	if err != nil {
		l.c.Events.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		if refused := l.refuse(ctx, budget, err); refused != nil {
			return refused
		}
		return err
	}
	st := &budget.Status
	disrupted, recheck := l.disrupted(budget, pods)
	st.CurrentHealthy = 0
	for _, pod := range pods {
		if _, leaving := disrupted[pod.Name]; controller.Active(pod) && controller.Ready(pod) && !leaving {
			st.CurrentHealthy++
		}
	}
	st.DisruptedPods, st.ExpectedPods, st.DesiredHealthy, st.ObservedGeneration = disrupted, expected, desired, budget.Generation
	st.DisruptionsAllowed = max(0, st.CurrentHealthy-desired)
	if expected <= 0 {
		st.DisruptionsAllowed = 0
	}
	allowed := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason, ObservedGeneration: budget.Generation}
	if st.DisruptionsAllowed == 0 {
		allowed.Status, allowed.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	meta.SetStatusCondition(&st.Conditions, allowed)
	if recheck > 0 {
		l.queue.AddAfter(key, recheck)
	}
	return l.write(ctx, cached, budget)
}

func (l *loop) refuse(ctx context.Context, budget *policyv1.PodDisruptionBudget, why error) error {
	was := budget.DeepCopy()
	budget.Status.DisruptionsAllowed = 0
	meta.SetStatusCondition(&budget.Status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: why.Error(), ObservedGeneration: budget.Generation,
	})
	return l.write(ctx, was, budget)
}

func (l *loop) write(ctx context.Context, was, is *policyv1.PodDisruptionBudget) error {
	if equality.Semantic.DeepEqual(was.Status, is.Status) {
		return nil
	}
	_, err := l.c.Client.PolicyV1().PodDisruptionBudgets(is.Namespace).UpdateStatus(ctx, is, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

// counts resolves the budget: how many pods there should be, and how many of them must be healthy.
func (l *loop) counts(ctx context.Context, budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, err error) {
	spec := &budget.Spec
	switch {
	case spec.MaxUnavailable != nil:
		if expected, err = l.scale(ctx, pods); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, int(expected), true)
		return expected, max(0, expected-int32(n)), err
	case spec.MinAvailable != nil && spec.MinAvailable.Type == intstr.Int:
		return int32(len(pods)), spec.MinAvailable.IntVal, nil
	case spec.MinAvailable != nil:
		if expected, err = l.scale(ctx, pods); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, int(expected), true)
		return expected, int32(n), err
	}
	return int32(len(pods)), 0, nil
}

// scale adds up the declared sizes of the controllers of pods. A pod whose controller has no scale makes percentages meaningless.
func (l *loop) scale(ctx context.Context, pods []*corev1.Pod) (int32, error) {
	var total int32
	seen := map[string]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			continue // an unmanaged pod is not part of any declared size
		}
		if seen[string(owner.UID)] {
			continue
		}
		seen[string(owner.UID)] = true
		n, err := l.replicas(ctx, pod.Namespace, owner)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// replicas reads the size of a pod's controller through its scale subresource; that of a Deployment's ReplicaSet is the Deployment's.
func (l *loop) replicas(ctx context.Context, namespace string, owner *metav1.OwnerReference) (int32, error) {
	if owner.Kind == "ReplicaSet" {
		if rs, err := l.sets.ReplicaSets(namespace).Get(owner.Name); err == nil && rs.UID == owner.UID {
			if up := metav1.GetControllerOfNoCopy(rs); up != nil {
				owner = up
			} else if rs.Spec.Replicas != nil {
				return *rs.Spec.Replicas, nil
			}
		}
	}
	gvk := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind)
	m, err := l.c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return 0, err
	}
	obj, err := l.c.Dynamic.Resource(m.Resource).Namespace(namespace).Get(ctx, owner.Name, metav1.GetOptions{}, "scale")
	if err != nil {
		return 0, fmt.Errorf("%s %s does not tell its scale: %w", owner.Kind, owner.Name, err)
	}
	spec, _ := obj.Object["spec"].(map[string]any)
	n, _ := spec["replicas"].(int64)
	return int32(n), nil
}

// disrupted keeps the API server's notes of evictions that are under way.
func (l *loop) disrupted(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (map[string]metav1.Time, time.Duration) {
	out := map[string]metav1.Time{}
	var recheck time.Duration
	now := l.c.Clock.Now()
	for _, pod := range pods {
		at, noted := budget.Status.DisruptedPods[pod.Name]
		if !noted || pod.DeletionTimestamp != nil {
			continue
		}
		left := at.Add(evictionTimeout).Sub(now)
		if left <= 0 {
			l.c.Events.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s to be deleted but it wasn't", controller.Key(budget))
			continue
		}
		out[pod.Name] = at
		if recheck == 0 || left < recheck {
			recheck = left
		}
	}
	if len(out) == 0 {
		return nil, 0
	}
	return out, recheck
}

func (l *loop) podChanged(oldObj, newObj any) {
	pod, ok := controller.Object[*corev1.Pod](newObj)
	if !ok {
		return
	}
	old, _ := controller.Object[*corev1.Pod](oldObj)
	all, err := l.budgets.PodDisruptionBudgets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, b := range all {
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && (s.Matches(labels.Set(pod.Labels)) || old != nil && s.Matches(labels.Set(old.Labels))) {
			l.queue.Enqueue(b)
		}
	}
	if c := controller.PodCondition(pod, corev1.DisruptionTarget); old != pod && c != nil && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil && !controller.Finished(pod) {
		l.targets.Enqueue(pod)
	}
}

// clearTarget takes back the DisruptionTarget condition of a pod that was to be evicted by the API and still runs.
func (l *loop) clearTarget(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	pod, err := l.pods.Pods(namespace).Get(name)
	if err != nil || pod.DeletionTimestamp != nil || controller.Finished(pod) {
		return controller.IgnoreNotFound(err)
	}
	c := controller.PodCondition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue {
		return nil
	}
	if left := c.LastTransitionTime.Add(staleTarget).Sub(l.c.Clock.Now()); left > 0 {
		l.targets.AddAfter(key, left)
		return nil
	}
	pod = pod.DeepCopy()
	c = controller.PodCondition(pod, corev1.DisruptionTarget)
	c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionFalse, "", "", metav1.NewTime(l.c.Clock.Now())
	_, err = l.c.Client.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}
