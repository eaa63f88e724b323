// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

// eviction is pods/eviction: a delete that asks the pod's PodDisruptionBudget first. The budget pays before the pod goes: its status counts the
// disruption down and remembers the pod until it is seen gone, so that two evictions never spend the same allowance.
type eviction struct {
	pods   *registry.Main
	client kubernetes.Interface
}

var (
	_ rest.NamedCreater             = &eviction{}
	_ rest.GroupVersionKindProvider = &eviction{}
	_ rest.GroupVersionAcceptor     = &eviction{}
)

// maxDisruptedPods bounds what a budget remembers; beyond it the disruption controller is not keeping up.
const maxDisruptedPods = 2000

func (e *eviction) New() runtime.Object { return &policyv1.Eviction{} }
func (e *eviction) Destroy()            {}
func (e *eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}
func (e *eviction) AcceptsGroupVersion(gv schema.GroupVersion) bool {
	return gv == policyv1.SchemeGroupVersion
}

func (e *eviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	in, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if in.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	del := in.DeleteOptions
	if del == nil {
		del = &metav1.DeleteOptions{}
	}
	dry := options != nil && dryrun.IsDryRun(options.DryRun) || dryrun.IsDryRun(del.DryRun)
	if dry {
		del.DryRun = []string{metav1.DryRunAll}
	}
	if validate != nil {
		if err := validate(ctx, in.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	pod, err := getPod(ctx, e.pods, name)
	if err != nil {
		return nil, err
	}
	if p := del.Preconditions; p != nil && p.ResourceVersion != nil && *p.ResourceVersion != pod.ResourceVersion {
		return nil, apierrors.NewConflict(corev1.Resource("pods"), name, fmt.Errorf("the pod's resource version is %s", pod.ResourceVersion))
	}
	if !disruptionFree(pod) {
		pinned, err := e.pay(ctx, pod, dry)
		if err != nil {
			return nil, err
		}
		if pinned != nil && del.Preconditions == nil {
			del.Preconditions = pinned
		}
	}
	if !dry {
		e.note(ctx, pod)
	}
	if _, _, err := e.pods.Delete(ctx, name, rest.ValidateAllObjectFunc, del); err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// disruptionFree reports whether pod does not count for any budget: finished, not yet running or already going.
func disruptionFree(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodPending || pod.DeletionTimestamp != nil
}

// pay takes one disruption from the budget that selects pod. It returns preconditions for the deletion when the pod was let go only because it is
// unhealthy: it must not have become healthy meanwhile.
func (e *eviction) pay(ctx context.Context, pod *corev1.Pod, dry bool) (*metav1.Preconditions, error) {
	budgets, err := e.budgets(ctx, pod)
	if err != nil {
		return nil, err
	}
	switch len(budgets) {
	case 0:
		return nil, nil
	case 1:
	default:
		return nil, apierrors.NewInternalError(fmt.Errorf("this pod has more than one PodDisruptionBudget, which the eviction subresource does not support"))
	}
	b := budgets[0]
	if !podReady(pod) {
		always := b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
		if always || b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0 {
			return &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion}, nil
		}
	}
	return nil, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh, err := e.client.PolicyV1().PodDisruptionBudgets(b.Namespace).Get(ctx, b.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := spend(fresh, pod.Name); err != nil || dry {
			return err
		}
		_, err = e.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
		return err
	})
}

func (e *eviction) budgets(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	list, err := e.client.PolicyV1().PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []policyv1.PodDisruptionBudget
	for _, b := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			out = append(out, b)
		}
	}
	return out, nil
}

// spend counts one disruption of pod, or says why not.
func spend(b *policyv1.PodDisruptionBudget, pod string) error {
	refuse := func(message string) error {
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
		return err
	}
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name)})
		return err
	case b.Status.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(b.Status.DisruptedPods) > maxDisruptedPods:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case b.Status.DisruptionsAllowed == 0:
		return refuse(fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy))
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod] = metav1.Time{Time: time.Now()}
	return nil
}

// note writes into the pod's status why it goes. The eviction does not depend on it.
func (e *eviction) note(ctx context.Context, pod *corev1.Pod) {
	_ = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh, err := e.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		setCondition(&fresh.Status, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI",
			Message: "Eviction API: evicting", LastTransitionTime: metav1.Now()})
		_, err = e.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
		return err
	})
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
