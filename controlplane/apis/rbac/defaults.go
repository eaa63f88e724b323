// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	v1 "k8s.io/api/rbac/v1"
)

func defaultRoleBinding(b *v1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }

func defaultClusterRoleBinding(b *v1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) }

func defaultBinding(ref *v1.RoleRef, subjects []v1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = v1.GroupName
	}
	for i := range subjects {
		if s := &subjects[i]; s.APIGroup == "" && (s.Kind == v1.UserKind || s.Kind == v1.GroupKind) {
			s.APIGroup = v1.GroupName
		}
	}
}
