// SPDX-License-Identifier: Apache-2.0

package volumebinder

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// volume keeps a volume's phase: Available without a claim, Bound with one, Released when its claim is gone.
func (l *loop) volume(ctx context.Context, name string) error {
	pv, err := l.volumeList.Get(name)
	if err != nil {
		if apierrors.IsNotFound(err) {
			l.known.forget(name)
		}
		return controller.IgnoreNotFound(err)
	}
	pv = l.known.newest(pv)
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // free, or reserved by the user for a claim that has not come
		_, err := l.volumePhase(ctx, pv, corev1.VolumeAvailable, "")
		return err
	}
	claim, err := l.claimList.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
		// The cache may be behind, and a release cannot be taken back.
		claim, err = l.c.Client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID:
		return l.release(ctx, pv)
	case err != nil:
		return err
	case claim.Spec.VolumeName == pv.Name:
		_, err := l.volumePhase(ctx, pv, corev1.VolumeBound, "")
		return err
	case claim.Spec.VolumeName == "":
		l.claims.Enqueue(claim) // half-bound: the claim's turn
		return nil
	}
	// The claim took another volume.
	if _, dynamic := pv.Annotations[volume.AnnDynamicallyProvisioned]; dynamic && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		return l.release(ctx, pv)
	}
	return l.unbind(ctx, pv)
}

// release marks a volume whose claim is gone. With the policy Delete its provisioner takes it from here; with Retain a person does.
func (l *loop) release(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv.Status.Phase == corev1.VolumeReleased || pv.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	pv, err := l.volumePhase(ctx, pv, corev1.VolumeReleased, "")
	if err != nil {
		return err
	}
	switch _, dynamic := pv.Annotations[volume.AnnDynamicallyProvisioned]; {
	case pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && !dynamic:
		l.c.Events.Event(pv, corev1.EventTypeWarning, "VolumeFailedDelete", "no provisioner made this volume, so none will delete it: delete it by hand or set the policy Retain")
	case pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle:
		l.c.Events.Event(pv, corev1.EventTypeWarning, "VolumeFailedRecycle", "recycling is not supported; use the policy Retain or Delete")
	}
	return nil
}

// unbind frees a volume that this controller, or in part the user, had given to a claim that took another.
func (l *loop) unbind(ctx context.Context, pv *corev1.PersistentVolume) error {
	pv = pv.DeepCopy()
	if _, ours := pv.Annotations[volume.AnnBoundByController]; ours {
		pv.Spec.ClaimRef = nil
		delete(pv.Annotations, volume.AnnBoundByController)
	} else {
		pv.Spec.ClaimRef.UID = ""
	}
	updated, err := l.c.Client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	l.known.wrote(updated)
	_, err = l.volumePhase(ctx, updated, corev1.VolumeAvailable, "")
	return err
}

func (l *loop) volumePhase(ctx context.Context, pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if pv.Status.Phase == phase {
		return pv, nil
	}
	pv = pv.DeepCopy()
	now := metav1.NewTime(l.c.Clock.Now())
	pv.Status.Phase, pv.Status.Message, pv.Status.LastPhaseTransitionTime = phase, message, &now
	updated, err := l.c.Client.CoreV1().PersistentVolumes().UpdateStatus(ctx, pv, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	l.known.wrote(updated)
	return updated, nil
}
