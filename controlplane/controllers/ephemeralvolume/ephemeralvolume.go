// SPDX-License-Identifier: Apache-2.0

// Package ephemeralvolume creates the claims of generic ephemeral volumes: one per volume and pod, owned by the pod and gone with it.
//
// It watches Pods and PersistentVolumeClaims and creates PersistentVolumeClaims.
package ephemeralvolume

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c      *controller.Context
	queue  *controller.Queue
	pods   corelisters.PodLister
	claims corelisters.PersistentVolumeClaimLister
	synced []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("ephemeral-volume-controller", "ephemeral_volume")
	pods, claims := c.Informers.Core().V1().Pods(), c.Informers.Core().V1().PersistentVolumeClaims()
	l := &loop{c: c, pods: pods.Lister(), claims: claims.Lister(), synced: []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced}}
	l.queue = c.Queue("ephemeralvolume", l.sync)
	controller.Watch(pods.Informer(), func(old, obj any) {
		if pod, ok := controller.Object[*corev1.Pod](obj); ok && old == nil && hasEphemeral(pod) {
			l.queue.Enqueue(pod)
		}
	})
	controller.Watch(claims.Informer(), func(old, obj any) { // a claim deleted too early comes back
		if claim, ok := controller.Object[*corev1.PersistentVolumeClaim](obj); ok && old == obj {
			if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.Kind == "Pod" {
				l.queue.Add(claim.Namespace + "/" + ref.Name)
			}
		}
	})
	return l
}

func hasEphemeral(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync creates the missing claims of a pod. A foreign claim of a needed name is left alone and told in an event.
func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	pod, err := l.pods.Pods(namespace).Get(name)
	if err != nil || pod.DeletionTimestamp != nil || controller.Finished(pod) {
		return controller.IgnoreNotFound(err)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		claimName := ephemeral.VolumeClaimName(pod, v)
		if claim, err := l.claims.PersistentVolumeClaims(namespace).Get(claimName); err == nil {
			if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
				l.c.Events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
				return err
			}
			continue
		} else if !apierrors.IsNotFound(err) {
			return err
		}
		claim := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: claimName,
				Labels: maps.Clone(v.Ephemeral.VolumeClaimTemplate.Labels), Annotations: maps.Clone(v.Ephemeral.VolumeClaimTemplate.Annotations),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
			},
			Spec: *v.Ephemeral.VolumeClaimTemplate.Spec.DeepCopy(),
		}
		if _, err := l.c.Client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, claim, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			l.c.Events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return err
		}
	}
	return nil
}
