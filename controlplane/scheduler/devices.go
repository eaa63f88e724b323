// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

// hasDevices reports whether the API server knows device claims. One that does not would keep their informers waiting for ever.
func (s *Scheduler) hasDevices() bool {
	list, err := s.client.Discovery().ServerResourcesForGroupVersion(resourcev1.SchemeGroupVersion.String())
	return err == nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "resourceslices" })
}

// prepareDevices writes the decided allocations into the claims and reserves the claims for pod.
func (s *Scheduler) prepareDevices(ctx context.Context, pod *v1.Pod, decision *placement.DeviceDecision) error {
	if decision == nil {
		return nil
	}
	for i, claim := range decision.Claims {
		if decision.Allocations[i] == nil && resourceclaim.IsReservedForPod(pod, claim, false) {
			continue
		}
		if err := s.reserveClaim(ctx, pod, claim.DeepCopy(), decision.Allocations[i]); err != nil {
			return fmt.Errorf("reserve resource claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return nil
}

func (s *Scheduler) reserveClaim(ctx context.Context, pod *v1.Pod, claim *resourcev1.ResourceClaim, allocation *resourcev1.AllocationResult) error {
	claims := s.client.ResourceV1().ResourceClaims(claim.Namespace)
	if allocation != nil {
		// The finalizer must be there before the allocation: a claim must not vanish while its devices are in use.
		if !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
			claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
			updated, err := claims.Update(ctx, claim, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			claim = updated
		}
		claim.Status.Allocation = allocation
	}
	claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	_, err := claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return err
}
