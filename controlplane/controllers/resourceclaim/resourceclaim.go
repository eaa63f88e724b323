// SPDX-License-Identifier: Apache-2.0

// Package resourceclaim makes the ResourceClaims that pods ask for by template, and takes finished pods off the claims they had reserved.
//
// It watches Pods, ResourceClaims and ResourceClaimTemplates. It creates claims owned by their pod, writes status.resourceClaimStatuses of pods and
// status.reservedFor of claims, frees the devices of claims nobody uses, and deletes generated claims of finished pods.
package resourceclaim

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// podClaimName is the annotation of a generated claim with the name of the pod's entry it was made for.
const podClaimName = resourcev1.PodResourceClaimAnnotation

type loop struct {
	c           *controller.Context
	podQ, claim *controller.Queue
	pods        corelisters.PodLister
	claims      resourcelisters.ResourceClaimLister
	templates   resourcelisters.ResourceClaimTemplateLister
	claimsOf    controller.Owned[*resourcev1.ResourceClaim]
	synced      []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("resource-claim-controller", "resource_claim")
	pods := c.Informers.Core().V1().Pods()
	claims, templates := c.Informers.Resource().V1().ResourceClaims(), c.Informers.Resource().V1().ResourceClaimTemplates()
	l := &loop{
		c: c, pods: pods.Lister(), claims: claims.Lister(), templates: templates.Lister(),
		claimsOf: controller.OwnedBy[*resourcev1.ResourceClaim](claims.Informer()),
		synced:   []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced, templates.Informer().HasSynced},
	}
	l.podQ, l.claim = c.Queue("resourceclaim_pod", l.syncPod), c.Queue("resourceclaim", l.syncClaim)
	controller.Watch(pods.Informer(), func(old, obj any) {
		pod, ok := controller.Object[*corev1.Pod](obj)
		if !ok || len(pod.Spec.ResourceClaims) == 0 {
			return
		}
		l.podQ.Enqueue(pod)
		if old == obj || controller.Finished(pod) || pod.DeletionTimestamp != nil {
			for _, s := range pod.Status.ResourceClaimStatuses {
				l.claim.Add(pod.Namespace + "/" + ptr.Deref(s.ResourceClaimName, ""))
			}
			for _, r := range pod.Spec.ResourceClaims {
				l.claim.Add(pod.Namespace + "/" + ptr.Deref(r.ResourceClaimName, ""))
			}
		}
	})
	controller.On(claims.Informer(), func(obj any) {
		l.claim.Enqueue(obj)
		if claim, ok := controller.Object[*resourcev1.ResourceClaim](obj); ok {
			if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.Kind == "Pod" {
				l.podQ.Add(claim.Namespace + "/" + ref.Name)
			}
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.podQ.Run(ctx, l.c.Settings.Workers, l.synced...)
	}()
	err := l.claim.Run(ctx, l.c.Settings.Workers, l.synced...)
	<-done
	return err
}

// syncPod creates a pod's claims and tells the pod their names.
func (l *loop) syncPod(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	pod, err := l.pods.Pods(namespace).Get(name)
	if err != nil || pod.DeletionTimestamp != nil || controller.Finished(pod) {
		return controller.IgnoreNotFound(err)
	}
	changed := false
	statuses := slices.Clone(pod.Status.ResourceClaimStatuses)
	for _, entry := range pod.Spec.ResourceClaims {
		if entry.ResourceClaimTemplateName == nil || slices.ContainsFunc(statuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == entry.Name }) {
			continue
		}
		claimName, err := l.ensure(ctx, pod, &entry)
		if err != nil {
			l.c.Events.Eventf(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", entry.Name, err)
			return err
		}
		statuses = append(statuses, corev1.PodResourceClaimStatus{Name: entry.Name, ResourceClaimName: &claimName})
		changed = true
	}
	if !changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"resourceClaimStatuses": statuses}})
	if err != nil {
		return err
	}
	_, err = l.c.Client.CoreV1().Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return controller.IgnoreNotFound(err)
}

// ensure returns the name of the claim generated for an entry of a pod. Before it creates one it asks the API server: a claim made just before a crash is not to be
// made twice, since its devices would be taken twice.
func (l *loop) ensure(ctx context.Context, pod *corev1.Pod, entry *corev1.PodResourceClaim) (string, error) {
	for _, claim := range l.claimsOf.Of(pod) {
		if claim.Annotations[podClaimName] == entry.Name {
			return claim.Name, nil
		}
	}
	live, err := l.c.Client.ResourceV1().ResourceClaims(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for i := range live.Items {
		if claim := &live.Items[i]; metav1.IsControlledBy(claim, pod) && claim.Annotations[podClaimName] == entry.Name {
			return claim.Name, nil
		}
	}
	template, err := l.templates.ResourceClaimTemplates(pod.Namespace).Get(*entry.ResourceClaimTemplateName)
	if err != nil {
		return "", err
	}
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: pod.Name + "-" + entry.Name + "-", Labels: maps.Clone(template.Spec.Labels), Annotations: maps.Clone(template.Spec.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: *template.Spec.Spec.DeepCopy(),
	}
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, podClaimName, entry.Name)
	created, err := l.c.Client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return created.Name, nil
}

// syncClaim drops finished and absent pods from a claim's reservations, frees an unused one, and deletes a generated one whose pod has finished.
func (l *loop) syncClaim(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	claim, err := l.claims.ResourceClaims(namespace).Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	var kept []resourcev1.ResourceClaimConsumerReference
	for _, r := range claim.Status.ReservedFor {
		uses, err := l.uses(ctx, namespace, r)
		if err != nil {
			return err
		}
		if uses {
			kept = append(kept, r)
		}
	}
	freed, unwanted := false, len(kept) == 0 && (claim.DeletionTimestamp != nil || l.generatedAndDone(claim))
	if len(kept) != len(claim.Status.ReservedFor) || unwanted && claim.Status.Allocation != nil {
		claim = claim.DeepCopy()
		if claim.Status.ReservedFor = kept; len(kept) == 0 {
			claim.Status.Allocation, claim.Status.Devices = nil, nil // its devices are free for others
			freed = true
		}
		if claim, err = l.c.Client.ResourceV1().ResourceClaims(namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return controller.IgnoreNotFound(err)
		}
	}
	// The scheduler's finalizer keeps a claim as long as it has devices. It comes before the allocation: a claim that is not being freed or deleted keeps it.
	if claim.Status.Allocation == nil && (freed || claim.DeletionTimestamp != nil) && slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
		claim = claim.DeepCopy()
		claim.Finalizers = controller.Filter(claim.Finalizers, func(f string) bool { return f != resourcev1.Finalizer })
		if claim, err = l.c.Client.ResourceV1().ResourceClaims(namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return controller.IgnoreNotFound(err)
		}
	}
	if unwanted && claim.DeletionTimestamp == nil {
		return controller.IgnoreNotFound(l.c.Client.ResourceV1().ResourceClaims(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}}))
	}
	return nil
}

// uses reports whether a consumer of a claim still needs it. Consumers that are not pods are their own controllers' business.
func (l *loop) uses(ctx context.Context, namespace string, r resourcev1.ResourceClaimConsumerReference) (bool, error) {
	if r.APIGroup != "" || r.Resource != "pods" {
		return true, nil
	}
	pod, err := l.pods.Pods(namespace).Get(r.Name)
	if apierrors.IsNotFound(err) || err == nil && pod.UID != r.UID {
		pod, err = l.c.Client.CoreV1().Pods(namespace).Get(ctx, r.Name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return true, err
	}
	// A pod that was deleted before it ran will not run.
	return pod.UID == r.UID && !controller.Finished(pod) && (pod.DeletionTimestamp == nil || pod.Spec.NodeName != ""), nil
}

func (l *loop) generatedAndDone(claim *resourcev1.ResourceClaim) bool {
	ref := metav1.GetControllerOfNoCopy(claim)
	if claim.Annotations[podClaimName] == "" || ref == nil || ref.Kind != "Pod" {
		return false
	}
	pod, err := l.pods.Pods(claim.Namespace).Get(ref.Name)
	return err == nil && pod.UID == ref.UID && controller.Finished(pod)
}
