// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
)

// Owner is a workload object: something that pods belong to and events are about.
type Owner interface {
	metav1.Object
	runtime.Object
}

// Pods writes the pods of workloads and tells about it in events on the workload.
type Pods struct {
	Client kubernetes.Interface
	Events record.EventRecorder
}

// FromTemplate returns the pod that template describes, owned by owner: its generated name starts with the owner's.
func FromTemplate(template *corev1.PodTemplateSpec, owner metav1.Object, ref *metav1.OwnerReference) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    podPrefix(owner.GetName()),
			Labels:          maps.Clone(template.Labels),
			Annotations:     maps.Clone(template.Annotations),
			Finalizers:      slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*ref},
		},
		Spec: *template.Spec.DeepCopy(),
	}
}

// podPrefix is name with a dash, or without where the dash would make it invalid: long names and such with a dot at the end.
func podPrefix(name string) string {
	if p := name + "-"; len(validation.IsDNS1123Subdomain(p+"x")) == 0 {
		return p
	}
	return name
}

// Create creates pod. A creation refused because the namespace is going away is an error without an event: nobody can do anything about it.
func (p Pods) Create(ctx context.Context, pod *corev1.Pod, owner Owner) (*corev1.Pod, error) {
	created, err := p.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			p.Events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return nil, fmt.Errorf("create pod for %s: %w", Key(owner), err)
	}
	p.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return created, nil
}

// Delete deletes pod if it is still the one with that UID. Deleting an absent pod is a NotFound error: the caller may have to lower an expectation.
func (p Pods) Delete(ctx context.Context, pod *corev1.Pod, owner Owner) error {
	err := p.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	switch {
	case err == nil:
		p.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // gone, or another pod took the name
		return apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
	default:
		p.Events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	}
	return err
}

// Patch applies a strategic merge patch to pod.
func (p Pods) Patch(ctx context.Context, pod *corev1.Pod, patch []byte) error {
	_, err := p.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// SlowStart calls f(i) for i below n in parallel batches of 1, 2, 4, ...: when every call must fail (quota, a webhook) only one is wasted.
// It stops after the batch in which a call failed, and returns how many succeeded and the first error.
func SlowStart(n int, f func(i int) error) (succeeded int, err error) {
	for start, batch := 0, 1; start < n; start, batch = start+batch, batch*2 {
		batch = min(batch, n-start)
		errs := Parallel(batch, func(i int) error { return f(start + i) })
		for _, e := range errs {
			if e == nil {
				succeeded++
			} else if err == nil {
				err = e
			}
		}
		if err != nil {
			return succeeded, err
		}
	}
	return succeeded, nil
}

// Parallel calls f(i) for i below n at once and returns the results in order.
func Parallel(n int, f func(i int) error) []error {
	errs := make([]error, n)
	if n == 1 {
		errs[0] = f(0)
		return errs
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errs
}
