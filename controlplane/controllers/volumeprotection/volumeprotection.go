// SPDX-License-Identifier: Apache-2.0

// Package volumeprotection keeps claims that pods use, and volumes that claims are bound to, from disappearing under them: a finalizer holds a deleted one back until
// nobody uses it.
//
// It watches PersistentVolumeClaims, PersistentVolumes and Pods, and writes the finalizers kubernetes.io/pvc-protection and kubernetes.io/pv-protection.
package volumeprotection

import (
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	podsByClaim     = "fairlead/claim"
)

type loop struct {
	c               *controller.Context // of the account that protects claims
	volumesOf       *controller.Context // of the one that protects volumes
	claims, volumes *controller.Queue
	claimList       corelisters.PersistentVolumeClaimLister
	volumeList      corelisters.PersistentVolumeLister
	pods            cache.Indexer
	synced          []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	claims, volumes, pods := c.Informers.Core().V1().PersistentVolumeClaims(), c.Informers.Core().V1().PersistentVolumes(), c.Informers.Core().V1().Pods()
	l := &loop{
		c:         c.As("pvc-protection-controller", "pvc-protection-controller"),
		volumesOf: c.As("pv-protection-controller", "pv-protection-controller"),
		claimList: claims.Lister(), volumeList: volumes.Lister(), pods: PodsByClaim(pods.Informer()),
		synced: []cache.InformerSynced{claims.Informer().HasSynced, volumes.Informer().HasSynced, pods.Informer().HasSynced},
	}
	l.claims, l.volumes = c.Queue("pvcprotection", l.claim), c.Queue("pvprotection", l.volume)
	controller.On(claims.Informer(), l.claims.Enqueue)
	controller.On(volumes.Informer(), l.volumes.Enqueue)
	controller.Watch(pods.Informer(), func(old, obj any) {
		if pod, ok := controller.Object[*corev1.Pod](obj); ok && (old == obj || controller.Finished(pod)) {
			for _, key := range claimsOf(pod) {
				l.claims.Add(key)
			}
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.volumes.Run(ctx, 2, l.synced...)
	}()
	err := l.claims.Run(ctx, l.c.Settings.Workers, l.synced...)
	<-done
	return err
}

// claim adds the finalizer to a living claim, and takes it off a deleted one that no unfinished pod uses.
func (l *loop) claim(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	claim, err := l.claimList.PersistentVolumeClaims(namespace).Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	has := slices.Contains(claim.Finalizers, claimFinalizer)
	switch {
	case claim.DeletionTimestamp == nil && !has:
		return l.patchClaim(ctx, claim, append(slices.Clone(claim.Finalizers), claimFinalizer))
	case claim.DeletionTimestamp == nil || !has:
		return nil
	}
	used, err := l.used(ctx, claim)
	if err != nil || used {
		return err
	}
	return l.patchClaim(ctx, claim, controller.Filter(claim.Finalizers, func(f string) bool { return f != claimFinalizer }))
}

// used asks the cache first, and the API server before it says no: a pod may have been created a moment ago.
func (l *loop) used(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	pods, err := l.pods.ByIndex(podsByClaim, controller.Key(claim))
	if err != nil {
		return true, err
	}
	for _, obj := range pods {
		if pod, ok := obj.(*corev1.Pod); ok && uses(pod, claim) {
			return true, nil
		}
	}
	live, err := l.c.Client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return true, err
	}
	for i := range live.Items {
		if slices.Contains(claimsOf(&live.Items[i]), controller.Key(claim)) && uses(&live.Items[i], claim) {
			return true, nil
		}
	}
	return false, nil
}

// uses reports whether pod still needs claim: finished pods do not, and neither do unscheduled ones, which the scheduler will refuse.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if controller.Finished(pod) || pod.Spec.NodeName == "" {
		return false
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name {
			return true
		}
		if v.Ephemeral != nil && ephemeral.VolumeClaimName(pod, v) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) == nil {
			return true
		}
	}
	return false
}

// volume adds the finalizer to a living volume, and takes it off a deleted one that is not bound.
func (l *loop) volume(ctx context.Context, name string) error {
	volume, err := l.volumeList.Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	has := slices.Contains(volume.Finalizers, volumeFinalizer)
	switch {
	case volume.DeletionTimestamp == nil && !has:
		return l.patchVolume(ctx, volume, append(slices.Clone(volume.Finalizers), volumeFinalizer))
	case volume.DeletionTimestamp != nil && has && volume.Status.Phase != corev1.VolumeBound:
		return l.patchVolume(ctx, volume, controller.Filter(volume.Finalizers, func(f string) bool { return f != volumeFinalizer }))
	}
	return nil
}

func (l *loop) patchClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, finalizers []string) error {
	patch, err := finalizerPatch(claim, finalizers)
	if err != nil {
		return err
	}
	_, err = l.c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return controller.IgnoreNotFound(err)
}

func (l *loop) patchVolume(ctx context.Context, volume *corev1.PersistentVolume, finalizers []string) error {
	patch, err := finalizerPatch(volume, finalizers)
	if err != nil {
		return err
	}
	_, err = l.volumesOf.Client.CoreV1().PersistentVolumes().Patch(ctx, volume.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return controller.IgnoreNotFound(err)
}

func finalizerPatch(obj metav1.Object, finalizers []string) ([]byte, error) {
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), "finalizers": finalizers,
	}})
}

// PodsByClaim indexes pods by the keys of the claims they mention.
func PodsByClaim(inf cache.SharedIndexInformer) cache.Indexer {
	return controller.Index(inf, podsByClaim, func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok {
			return claimsOf(pod), nil
		}
		return nil, nil
	})
}

func claimsOf(pod *corev1.Pod) []string {
	var keys []string
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			keys = append(keys, pod.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			keys = append(keys, pod.Namespace+"/"+ephemeral.VolumeClaimName(pod, v))
		}
	}
	return keys
}
