// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"strconv"

	v1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func deploymentScale() *resource.Scale[*v1.Deployment] {
	return &resource.Scale[*v1.Deployment]{
		Replicas:       func(d *v1.Deployment) *int32 { return d.Spec.Replicas },
		SetReplicas:    func(d *v1.Deployment, n int32) { d.Spec.Replicas = &n },
		StatusReplicas: func(d *v1.Deployment) int32 { return d.Status.Replicas },
		Selector:       func(d *v1.Deployment) (*metav1.LabelSelector, error) { return d.Spec.Selector, nil },
	}
}

func replicaSetScale() *resource.Scale[*v1.ReplicaSet] {
	return &resource.Scale[*v1.ReplicaSet]{
		Replicas:       func(r *v1.ReplicaSet) *int32 { return r.Spec.Replicas },
		SetReplicas:    func(r *v1.ReplicaSet, n int32) { r.Spec.Replicas = &n },
		StatusReplicas: func(r *v1.ReplicaSet) int32 { return r.Status.Replicas },
		Selector:       func(r *v1.ReplicaSet) (*metav1.LabelSelector, error) { return r.Spec.Selector, nil },
	}
}

func statefulSetScale() *resource.Scale[*v1.StatefulSet] {
	return &resource.Scale[*v1.StatefulSet]{
		Replicas:       func(s *v1.StatefulSet) *int32 { return s.Spec.Replicas },
		SetReplicas:    func(s *v1.StatefulSet, n int32) { s.Spec.Replicas = &n },
		StatusReplicas: func(s *v1.StatefulSet) int32 { return s.Status.Replicas },
		Selector:       func(s *v1.StatefulSet) (*metav1.LabelSelector, error) { return s.Spec.Selector, nil },
	}
}

func replicaSetFields(r *v1.ReplicaSet) fields.Set {
	return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
}
