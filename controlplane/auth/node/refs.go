// SPDX-License-Identifier: Apache-2.0

package node

import (
	corev1 "k8s.io/api/core/v1"
)

// object names what a pod can use.
type object struct{ kind, namespace, name string }

const (
	secrets         = "secrets"
	configMaps      = "configmaps"
	claims          = "persistentvolumeclaims"
	serviceAccounts = "serviceaccounts"
	resourceClaims  = "resourceclaims"
)

// podUses returns everything in its own namespace that pod refers to.
func podUses(pod *corev1.Pod) map[object]struct{} {
	out := map[object]struct{}{}
	add := func(kind, name string) {
		if name != "" {
			out[object{kind, pod.Namespace, name}] = struct{}{}
		}
	}
	add(serviceAccounts, pod.Spec.ServiceAccountName)
	for _, s := range pod.Spec.ImagePullSecrets {
		add(secrets, s.Name)
	}
	container := func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				add(secrets, e.ValueFrom.SecretKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				add(configMaps, e.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
		for _, f := range from {
			if f.SecretRef != nil {
				add(secrets, f.SecretRef.Name)
			}
			if f.ConfigMapRef != nil {
				add(configMaps, f.ConfigMapRef.Name)
			}
		}
	}
	for _, c := range pod.Spec.InitContainers {
		container(c.Env, c.EnvFrom)
	}
	for _, c := range pod.Spec.Containers {
		container(c.Env, c.EnvFrom)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		container(c.Env, c.EnvFrom)
	}
	for i := range pod.Spec.Volumes {
		volumeUses(pod, &pod.Spec.Volumes[i], add)
	}
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			add(resourceClaims, *c.ResourceClaimName)
		}
	}
	for _, s := range pod.Status.ResourceClaimStatuses {
		if s.ResourceClaimName != nil {
			add(resourceClaims, *s.ResourceClaimName)
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		add(resourceClaims, s.ResourceClaimName)
	}
	return out
}

func volumeUses(pod *corev1.Pod, v *corev1.Volume, add func(kind, name string)) {
	local := func(r *corev1.LocalObjectReference) {
		if r != nil {
			add(secrets, r.Name)
		}
	}
	switch {
	case v.Secret != nil:
		add(secrets, v.Secret.SecretName)
	case v.ConfigMap != nil:
		add(configMaps, v.ConfigMap.Name)
	case v.PersistentVolumeClaim != nil:
		add(claims, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		add(claims, pod.Name+"-"+v.Name) // the name that the ephemeral-volume controller gives
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				add(secrets, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				add(configMaps, s.ConfigMap.Name)
			}
		}
	case v.AzureFile != nil:
		add(secrets, v.AzureFile.SecretName)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	}
}

// volumeSecrets returns the secrets that a node needs to mount pv.
func volumeSecrets(pv *corev1.PersistentVolume) (out []object) {
	claimNamespace := ""
	if pv.Spec.ClaimRef != nil {
		claimNamespace = pv.Spec.ClaimRef.Namespace
	}
	add := func(r *corev1.SecretReference) {
		if r != nil && r.Name != "" {
			namespace := r.Namespace
			if namespace == "" {
				namespace = claimNamespace
			}
			out = append(out, object{secrets, namespace, r.Name})
		}
	}
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.AzureFile != nil:
		namespace := ""
		if s.AzureFile.SecretNamespace != nil {
			namespace = *s.AzureFile.SecretNamespace
		}
		add(&corev1.SecretReference{Name: s.AzureFile.SecretName, Namespace: namespace})
	case s.CephFS != nil:
		add(s.CephFS.SecretRef)
	case s.Cinder != nil:
		add(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		add(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		add(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		add(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		add(s.ISCSI.SecretRef)
	case s.StorageOS != nil:
		if r := s.StorageOS.SecretRef; r != nil {
			add(&corev1.SecretReference{Name: r.Name, Namespace: r.Namespace})
		}
	case s.CSI != nil:
		add(s.CSI.NodePublishSecretRef)
		add(s.CSI.NodeStageSecretRef)
		add(s.CSI.NodeExpandSecretRef)
	}
	return out
}
