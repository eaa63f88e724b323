// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the server itself writes into an object that a client creates or updates. The assembly has emptied status on create and restored it on
// update before these run.

func prepareNamespace(_ context.Context, n *v1.Namespace) {
	n.Status = v1.NamespaceStatus{Phase: v1.NamespaceActive}
	for _, f := range n.Spec.Finalizers {
		if f == v1.FinalizerKubernetes {
			return
		}
	}
	n.Spec.Finalizers = append(n.Spec.Finalizers, v1.FinalizerKubernetes)
}

// prepareNamespaceUpdate keeps the finalizers, which only namespaces/finalize changes, and the label with the namespace's name.
func prepareNamespaceUpdate(_ context.Context, n, old *v1.Namespace) {
	n.Spec.Finalizers = old.Spec.Finalizers
	n.Status = old.Status
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[v1.LabelMetadataName] = old.Name
}

func preparePersistentVolume(_ context.Context, pv *v1.PersistentVolume) {
	pv.Status = v1.PersistentVolumeStatus{Phase: v1.VolumePending, LastPhaseTransitionTime: new(metav1.Now())}
}

func preparePersistentVolumeStatus(_ context.Context, pv, old *v1.PersistentVolume) {
	if pv.Status.Phase != old.Status.Phase && (pv.Status.LastPhaseTransitionTime == nil ||
		pv.Status.LastPhaseTransitionTime.Equal(old.Status.LastPhaseTransitionTime)) {
		pv.Status.LastPhaseTransitionTime = new(metav1.Now())
	}
}

func preparePersistentVolumeClaim(_ context.Context, c *v1.PersistentVolumeClaim) {
	c.Status = v1.PersistentVolumeClaimStatus{Phase: v1.ClaimPending}
	mirrorDataSource(&c.Spec)
}

func preparePersistentVolumeClaimUpdate(_ context.Context, c, _ *v1.PersistentVolumeClaim) {
	mirrorDataSource(&c.Spec)
}

// mirrorDataSource gives readers of either spelling of a claim's source the same answer. A source in another namespace has only the new one.
func mirrorDataSource(s *v1.PersistentVolumeClaimSpec) {
	switch from, ref := s.DataSource, s.DataSourceRef; {
	case from != nil && ref == nil:
		s.DataSourceRef = &v1.TypedObjectReference{APIGroup: from.APIGroup, Kind: from.Kind, Name: from.Name}
	case from == nil && ref != nil && (ref.Namespace == nil || *ref.Namespace == ""):
		s.DataSource = &v1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

// prepareNodeUpdate drops what no longer works in Kubernetes: configuration of the node agent through the API.
func prepareNodeUpdate(_ context.Context, n, old *v1.Node) {
	if old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
}

func prepareNode(_ context.Context, n *v1.Node) { n.Spec.ConfigSource = nil }

// prepareService and prepareServiceUpdate repeat what allocation (package servicealloc) did before them, for servers that run without it.
func prepareService(_ context.Context, s *v1.Service) { FitService(s, nil) }

func prepareServiceUpdate(_ context.Context, s, old *v1.Service) {
	FitService(s, old)
	if s.Spec.Type != v1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = v1.LoadBalancerStatus{}
	}
}
