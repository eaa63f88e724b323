// SPDX-License-Identifier: Apache-2.0

package core

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func replicationControllerScale() *resource.Scale[*v1.ReplicationController] {
	return &resource.Scale[*v1.ReplicationController]{
		Replicas:       func(rc *v1.ReplicationController) *int32 { return rc.Spec.Replicas },
		SetReplicas:    func(rc *v1.ReplicationController, n int32) { rc.Spec.Replicas = &n },
		StatusReplicas: func(rc *v1.ReplicationController) int32 { return rc.Status.Replicas },
		Selector: func(rc *v1.ReplicationController) (*metav1.LabelSelector, error) {
			return &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}, nil
		},
	}
}
