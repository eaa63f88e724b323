// SPDX-License-Identifier: Apache-2.0

package apps

import (
	v1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
)

func orInt32(p **int32, value int32) {
	if *p == nil {
		*p = &value
	}
}

func orIntOrString(p **intstr.IntOrString, value string) {
	if *p == nil {
		*p = new(intstr.Parse(value))
	}
}

func defaultDeployment(d *v1.Deployment) {
	orInt32(&d.Spec.Replicas, 1)
	orInt32(&d.Spec.RevisionHistoryLimit, 10)
	orInt32(&d.Spec.ProgressDeadlineSeconds, 600)
	s := &d.Spec.Strategy
	if s.Type == "" {
		s.Type = v1.RollingUpdateDeploymentStrategyType
	}
	if s.Type == v1.RollingUpdateDeploymentStrategyType {
		if s.RollingUpdate == nil {
			s.RollingUpdate = &v1.RollingUpdateDeployment{}
		}
		orIntOrString(&s.RollingUpdate.MaxUnavailable, "25%")
		orIntOrString(&s.RollingUpdate.MaxSurge, "25%")
	}
	podspec.Default(&d.Spec.Template.Spec)
}

func defaultReplicaSet(r *v1.ReplicaSet) {
	orInt32(&r.Spec.Replicas, 1)
	podspec.Default(&r.Spec.Template.Spec)
}

func defaultDaemonSet(d *v1.DaemonSet) {
	orInt32(&d.Spec.RevisionHistoryLimit, 10)
	s := &d.Spec.UpdateStrategy
	if s.Type == "" {
		s.Type = v1.RollingUpdateDaemonSetStrategyType
	}
	if s.Type == v1.RollingUpdateDaemonSetStrategyType {
		if s.RollingUpdate == nil {
			s.RollingUpdate = &v1.RollingUpdateDaemonSet{}
		}
		orIntOrString(&s.RollingUpdate.MaxUnavailable, "1")
		orIntOrString(&s.RollingUpdate.MaxSurge, "0")
	}
	podspec.Default(&d.Spec.Template.Spec)
}

func defaultStatefulSet(s *v1.StatefulSet) {
	orInt32(&s.Spec.Replicas, 1)
	orInt32(&s.Spec.RevisionHistoryLimit, 10)
	if s.Spec.PodManagementPolicy == "" {
		s.Spec.PodManagementPolicy = v1.OrderedReadyPodManagement
	}
	u := &s.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = v1.RollingUpdateStatefulSetStrategyType
		if u.RollingUpdate == nil {
			u.RollingUpdate = &v1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if u.Type == v1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		orInt32(&u.RollingUpdate.Partition, 0)
		orIntOrString(&u.RollingUpdate.MaxUnavailable, "1")
	}
	if s.Spec.PersistentVolumeClaimRetentionPolicy == nil {
		s.Spec.PersistentVolumeClaimRetentionPolicy = &v1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	for _, when := range []*v1.PersistentVolumeClaimRetentionPolicyType{
		&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, &s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled,
	} {
		if *when == "" {
			*when = v1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		podspec.DefaultClaim(&c.Spec)
		if c.Status.Phase == "" {
			c.Status.Phase = corev1.ClaimPending
		}
		// A claim template is a whole claim: it names its kind even where the writer left that out.
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
	}
	podspec.Default(&s.Spec.Template.Spec)
}
