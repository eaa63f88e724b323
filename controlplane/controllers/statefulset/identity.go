// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

var createOptions = metav1.CreateOptions{}

// ordinal is the number in the name of a pod of set, -1 for a name that is not the set's.
func ordinal(set *appsv1.StatefulSet, pod *corev1.Pod) int {
	digits, ok := strings.CutPrefix(pod.Name, set.Name+"-")
	if !ok {
		return -1
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != digits {
		return -1
	}
	return int(n)
}

// newPod is the pod of an ordinal, with the name, host name, labels and volumes that go with it.
func newPod(set *appsv1.StatefulSet, i int, revision string) *corev1.Pod {
	pod := controller.FromTemplate(&set.Spec.Template, set, metav1.NewControllerRef(set, gvk))
	pod.Name = fmt.Sprintf("%s-%d", set.Name, i)
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(i)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	for _, t := range set.Spec.VolumeClaimTemplates {
		pod.Spec.Volumes = slices.DeleteFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == t.Name })
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, &t, i)},
		}})
	}
	return pod
}

func claimName(set *appsv1.StatefulSet, t *corev1.PersistentVolumeClaim, i int) string {
	return fmt.Sprintf("%s-%s-%d", t.Name, set.Name, i)
}

// ensureClaims creates the missing claims of a pod. It returns false when one is being deleted: a pod created now would lose it.
func (s *state) ensureClaims(ctx context.Context, pod *corev1.Pod, i int) (bool, error) {
	for _, t := range s.set.Spec.VolumeClaimTemplates {
		name := claimName(s.set, &t, i)
		had, err := s.claims.PersistentVolumeClaims(s.set.Namespace).Get(name)
		switch {
		case err == nil && had.DeletionTimestamp != nil:
			return false, nil
		case err == nil && s.stale(had, pod):
			return false, nil
		case err == nil:
			continue
		case !apierrors.IsNotFound(err):
			return false, err
		}
		claim := t.DeepCopy()
		claim.Namespace, claim.Name = s.set.Namespace, name
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, s.set.Spec.Selector.MatchLabels)
		claim.Status = corev1.PersistentVolumeClaimStatus{}
		s.setOwners(claim, nil)
		_, err = s.c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Create(ctx, claim, createOptions)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			s.c.Events.Eventf(s.set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %v", name, pod.Name, s.set.Name, err)
			return false, fmt.Errorf("create claim %s: %w", name, err)
		}
		if err == nil {
			s.c.Events.Eventf(s.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", name, pod.Name, s.set.Name)
		}
	}
	return true, nil
}

// stale reports whether claim belongs to an earlier pod of the same name and will be collected with it.
func (s *state) stale(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) bool {
	for _, ref := range claim.OwnerReferences {
		if ref.Kind == "Pod" && ref.Name == pod.Name && ref.UID != pod.UID {
			return true
		}
	}
	return false
}

// retainClaims gives the claims of all pods the owners that the retention policy asks for: the set's deletion, or the pod's by a scale-down, then deletes them.
func (s *state) retainClaims(ctx context.Context) error {
	policy := s.set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil || len(s.set.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	for _, pod := range append(slices.Clone(s.replicas), s.condemned...) {
		if pod == nil || pod.DeletionTimestamp != nil {
			continue
		}
		var doomed *corev1.Pod
		if slices.Contains(s.condemned, pod) {
			doomed = pod
		}
		for _, t := range s.set.Spec.VolumeClaimTemplates {
			claim, err := s.claims.PersistentVolumeClaims(s.set.Namespace).Get(claimName(s.set, &t, ordinal(s.set, pod)))
			if err != nil {
				continue // not created, or not seen yet
			}
			claim = claim.DeepCopy()
			if !s.setOwners(claim, doomed) {
				continue
			}
			if _, err := s.c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("set the owner of claim %s: %w", claim.Name, err)
			}
		}
	}
	return nil
}

// setOwners changes the owner references of claim that are this controller's business, and reports a change. doomed is the pod when it is about to be scaled away.
func (s *state) setOwners(claim *corev1.PersistentVolumeClaim, doomed *corev1.Pod) bool {
	byScale, byDelete := false, false
	if p := s.set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		byScale = p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && doomed != nil
		byDelete = p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && !byScale
	}
	podName := fmt.Sprintf("%s-", s.set.Name)
	var refs []metav1.OwnerReference
	for _, ref := range claim.OwnerReferences {
		ours := ref.UID == s.set.UID || ref.Kind == "Pod" && strings.HasPrefix(ref.Name, podName)
		if !ours {
			refs = append(refs, ref)
		}
	}
	if byScale {
		refs = append(refs, *metav1.NewControllerRef(doomed, corev1.SchemeGroupVersion.WithKind("Pod")))
	}
	if byDelete {
		refs = append(refs, *metav1.NewControllerRef(s.set, gvk))
	}
	same := slices.EqualFunc(refs, claim.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID })
	claim.OwnerReferences = refs
	return !same
}
