// SPDX-License-Identifier: Apache-2.0

// Package volumebinder binds PersistentVolumeClaims and PersistentVolumes to each other.
//
// It watches both, and StorageClasses. It writes the binding (spec.claimRef, spec.volumeName, with the annotations that tell who bound), the phases, the class
// of claims that asked for the default one, and, where no volume fits, the annotation by which a provisioner knows that it is its turn. It creates and deletes no
// storage: provisioners do.
//
//	claim: unbound -> a volume that fits? bind -> a class with a provisioner? hand over -> wait
//	volume: Available -> Bound -> its claim is gone: Released -> the provisioner deletes it, or it stays
package volumebinder

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/volume"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	defaultClass = "storageclass.kubernetes.io/is-default-class"
	claimIndex   = "fairlead/claim"
)

type loop struct {
	c               *controller.Context
	claims, volumes *controller.Queue
	claimList       corelisters.PersistentVolumeClaimLister
	volumeList      corelisters.PersistentVolumeLister
	classes         storagelisters.StorageClassLister
	byClaim         cache.Indexer // of volumes, by the namespace/name of the claim they point at
	known           known
	synced          []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("persistent-volume-binder", "persistentvolume-controller")
	claims, volumes, classes := c.Informers.Core().V1().PersistentVolumeClaims(), c.Informers.Core().V1().PersistentVolumes(), c.Informers.Storage().V1().StorageClasses()
	l := &loop{
		c: c, claimList: claims.Lister(), volumeList: volumes.Lister(), classes: classes.Lister(),
		synced: []cache.InformerSynced{claims.Informer().HasSynced, volumes.Informer().HasSynced, classes.Informer().HasSynced},
	}
	l.claims, l.volumes = c.Queue("volumebinder_claim", l.claim), c.Queue("volumebinder_volume", l.volume)
	l.byClaim = controller.Index(volumes.Informer(), claimIndex, func(obj any) ([]string, error) {
		if pv, ok := obj.(*corev1.PersistentVolume); ok && pv.Spec.ClaimRef != nil {
			return []string{pv.Spec.ClaimRef.Namespace + "/" + pv.Spec.ClaimRef.Name}, nil
		}
		return nil, nil
	})
	controller.On(claims.Informer(), func(obj any) {
		l.claims.Enqueue(obj)
		claim, ok := controller.Object[*corev1.PersistentVolumeClaim](obj)
		if !ok {
			return
		}
		if claim.Spec.VolumeName != "" {
			l.volumes.Add(claim.Spec.VolumeName)
		}
		l.wakeVolumes(claim)
	})
	controller.On(volumes.Informer(), func(obj any) {
		l.volumes.Enqueue(obj)
		pv, ok := controller.Object[*corev1.PersistentVolume](obj)
		if ok && pv.Spec.ClaimRef != nil {
			l.claims.Add(pv.Spec.ClaimRef.Namespace + "/" + pv.Spec.ClaimRef.Name)
		} else if ok {
			l.wakeUnbound()
		}
	})
	controller.On(classes.Informer(), func(any) { l.wakeUnbound() })
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.volumes.Run(ctx, l.c.Settings.Workers, l.synced...)
	}()
	// One worker: two claims must not look for volumes at once.
	err := l.claims.Run(ctx, 1, l.synced...)
	<-done
	return err
}

// wakeVolumes enqueues the volumes that point at claim: it may have come, gone, or taken another.
func (l *loop) wakeVolumes(claim *corev1.PersistentVolumeClaim) {
	names, err := l.byClaim.IndexKeys(claimIndex, controller.Key(claim))
	if err != nil {
		panic(err) // New made the index
	}
	for _, name := range names {
		l.volumes.Add(name)
	}
}

func (l *loop) wakeUnbound() {
	all, err := l.claimList.List(labels.Everything())
	if err != nil {
		return
	}
	for _, claim := range all {
		if claim.Spec.VolumeName == "" {
			l.claims.Enqueue(claim)
		}
	}
}

func (l *loop) claim(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	claim, err := l.claimList.PersistentVolumeClaims(namespace).Get(name)
	if err != nil || claim.DeletionTimestamp != nil {
		return controller.IgnoreNotFound(err)
	}
	_, completed := claim.Annotations[volume.AnnBindCompleted]
	if claim.Spec.VolumeName == "" {
		if completed {
			return l.phase(ctx, claim, corev1.ClaimLost, nil, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
		}
		return l.unbound(ctx, claim)
	}
	pv, err := l.volumeList.Get(claim.Spec.VolumeName)
	if err == nil {
		pv = l.known.newest(pv)
	}
	switch {
	case apierrors.IsNotFound(err) && completed:
		return l.phase(ctx, claim, corev1.ClaimLost, nil, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case apierrors.IsNotFound(err):
		return l.phase(ctx, claim, corev1.ClaimPending, nil, "", "") // the user named a volume that does not exist yet
	case err != nil:
		return err
	case pv.Spec.ClaimRef == nil || volume.IsVolumeBoundToClaim(pv, claim):
		return l.bind(ctx, claim, pv)
	case completed:
		return l.phase(ctx, claim, corev1.ClaimLost, nil, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	}
	l.c.Events.Eventf(claim, corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", pv.Name)
	return l.phase(ctx, claim, corev1.ClaimPending, nil, "", "")
}

// unbound finds a volume for a claim, or somebody who makes one.
func (l *loop) unbound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if done, err := l.assignDefaultClass(ctx, claim); done || err != nil {
		return err
	}
	wait, err := volume.IsDelayBindingMode(claim, l.classes)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	all, err := l.volumeList.List(labels.Everything())
	if err != nil {
		return err
	}
	var free []*corev1.PersistentVolume
	for _, pv := range all {
		if pv = l.known.newest(pv); pv.DeletionTimestamp == nil && volume.CheckAccessModes(claim, pv) {
			free = append(free, available(pv))
		}
	}
	pv, err := volume.FindMatchingVolume(claim, free, nil, nil, wait, true)
	if err != nil {
		return err
	}
	if pv != nil {
		return l.bind(ctx, claim, pv)
	}
	class, err := l.classes.Get(volume.GetPersistentVolumeClaimClass(claim))
	switch {
	case wait && !volume.IsDelayBindingProvisioning(claim):
		l.c.Events.Event(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case volume.GetPersistentVolumeClaimClass(claim) == "":
		l.c.Events.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case apierrors.IsNotFound(err):
		l.c.Events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", volume.GetPersistentVolumeClaimClass(claim))
	case err != nil:
		return err
	case class.Provisioner == volume.NotSupportedProvisioner:
		l.c.Events.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim, and its storage class makes none")
	default:
		return l.handOver(ctx, claim, class)
	}
	return l.phase(ctx, claim, corev1.ClaimPending, nil, "", "")
}

// available returns pv, or, when it is so new that it has no phase yet, as it will be in a moment: otherwise a claim that comes together with its volume would get
// a larger one, or a provisioner's.
func available(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	if pv.Status.Phase != "" && pv.Status.Phase != corev1.VolumePending {
		return pv
	}
	pv = pv.DeepCopy()
	pv.Status.Phase = corev1.VolumeAvailable
	return pv
}

// assignDefaultClass gives a claim that names no class the default one. done means that it was written.
func (l *loop) assignDefaultClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (done bool, err error) {
	if claim.Spec.StorageClassName != nil || volume.PersistentVolumeClaimHasClass(claim) {
		return false, nil
	}
	all, err := l.classes.List(labels.Everything())
	if err != nil {
		return false, err
	}
	var chosen *storagev1.StorageClass // the newest of several, then the first by name
	for _, class := range all {
		if class.Annotations[defaultClass] != "true" {
			continue
		}
		if chosen == nil || chosen.CreationTimestamp.Before(&class.CreationTimestamp) ||
			chosen.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < chosen.Name {
			chosen = class
		}
	}
	if chosen == nil {
		return false, nil
	}
	claim = claim.DeepCopy()
	claim.Spec.StorageClassName = &chosen.Name
	_, err = l.c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return true, err
}

// handOver marks a claim as its provisioner's.
func (l *loop) handOver(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if claim.Annotations[volume.AnnStorageProvisioner] != class.Provisioner {
		claim = claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnStorageProvisioner, class.Provisioner)
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBetaStorageProvisioner, class.Provisioner)
		updated, err := l.c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		claim = updated
	}
	l.c.Events.Eventf(claim, corev1.EventTypeNormal, "ExternalProvisioning",
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator.", class.Provisioner)
	return l.phase(ctx, claim, corev1.ClaimPending, nil, "", "")
}

// bind makes volume and claim point at each other, in this order: a crash in between leaves a volume that knows its claim, and the next sync goes on from there.
func (l *loop) bind(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	wanted, dirty, err := volume.GetBindVolumeToClaim(pv, claim)
	if err != nil {
		return err
	}
	if dirty {
		if pv, err = l.c.Client.CoreV1().PersistentVolumes().Update(ctx, wanted, metav1.UpdateOptions{}); err != nil {
			return err
		}
		l.known.wrote(pv)
	}
	if pv.Status.Phase != corev1.VolumeBound {
		if pv, err = l.volumePhase(ctx, pv, corev1.VolumeBound, ""); err != nil {
			return err
		}
	}
	updated := claim.DeepCopy()
	if updated.Spec.VolumeName != pv.Name {
		updated.Spec.VolumeName = pv.Name
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&updated.ObjectMeta, volume.AnnBindCompleted, "yes")
	if updated.Spec.VolumeName != claim.Spec.VolumeName || !maps.Equal(updated.Annotations, claim.Annotations) {
		if updated, err = l.c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return l.phase(ctx, updated, corev1.ClaimBound, pv, "", "")
}

// phase writes a claim's status; a bound claim shows what its volume offers.
func (l *loop) phase(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, pv *corev1.PersistentVolume, reason, message string) error {
	st := claim.Status.DeepCopy()
	st.Phase = phase
	switch {
	case pv == nil:
		st.AccessModes, st.Capacity = nil, nil
	default:
		st.AccessModes = pv.Spec.AccessModes
		if st.Capacity == nil { // later sizes are the resizer's to tell
			st.Capacity = corev1.ResourceList{corev1.ResourceStorage: pv.Spec.Capacity[corev1.ResourceStorage]}
		}
		st.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
	}
	if equality.Semantic.DeepEqual(*st, claim.Status) {
		return nil
	}
	was := claim.Status.Phase
	claim = claim.DeepCopy()
	claim.Status = *st
	if _, err := l.c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return controller.IgnoreNotFound(err)
	}
	if reason != "" && was != phase {
		l.c.Events.Event(claim, corev1.EventTypeWarning, reason, message)
	}
	return nil
}
