// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"strings"

	v1 "k8s.io/api/rbac/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func bindingColumns[T resource.Object](ref func(T) v1.RoleRef, subjects func(T) []v1.Subject) []resource.Column[T] {
	of := func(name, kind string) resource.Column[T] {
		return column.Wide(column.Text(name, name+" that the binding gives the role to.", func(b T) string {
			var list []string
			for _, s := range subjects(b) {
				switch {
				case s.Kind != kind:
				case kind == v1.ServiceAccountKind:
					list = append(list, s.Namespace+"/"+s.Name)
				default:
					list = append(list, s.Name)
				}
			}
			return strings.Join(list, ", ")
		}))
	}
	return column.Standard(
		column.Text("Role", "Role that is given.", func(b T) string { return ref(b).Kind + "/" + ref(b).Name }),
		of("Users", v1.UserKind), of("Groups", v1.GroupKind), of("ServiceAccounts", v1.ServiceAccountKind),
	)
}

func roleBindingColumns() []resource.Column[*v1.RoleBinding] {
	return bindingColumns(func(b *v1.RoleBinding) v1.RoleRef { return b.RoleRef }, func(b *v1.RoleBinding) []v1.Subject { return b.Subjects })
}

func clusterRoleBindingColumns() []resource.Column[*v1.ClusterRoleBinding] {
	return bindingColumns(func(b *v1.ClusterRoleBinding) v1.RoleRef { return b.RoleRef }, func(b *v1.ClusterRoleBinding) []v1.Subject { return b.Subjects })
}
