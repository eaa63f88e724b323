// SPDX-License-Identifier: Apache-2.0

// Package rbac declares the kinds of the rbac.authorization.k8s.io group (v1).
package rbac

import (
	v1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "rbac.authorization.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		roles().Resource(),
		roleBindings().Resource(),
		clusterRoles().Resource(),
		clusterRoleBindings().Resource(),
	}
}

func roles() resource.Kind[*v1.Role] {
	return resource.Kind[*v1.Role]{
		GVR:            group.WithResource("roles"),
		Kind:           "Role",
		New:            func() *v1.Role { return &v1.Role{} },
		NewList:        func() runtime.Object { return &v1.RoleList{} },
		NoGeneration:   true,
		ValidateName:   pathSegmentName, // names have colons: system:node
		CreateOnUpdate: true,
		Columns:        column.NameAndDate[*v1.Role](),
		Validate:       validateRole,
	}
}

func roleBindings() resource.Kind[*v1.RoleBinding] {
	return resource.Kind[*v1.RoleBinding]{
		GVR:            group.WithResource("rolebindings"),
		Kind:           "RoleBinding",
		New:            func() *v1.RoleBinding { return &v1.RoleBinding{} },
		NewList:        func() runtime.Object { return &v1.RoleBindingList{} },
		NoGeneration:   true,
		ValidateName:   pathSegmentName, // names have colons: system:node
		CreateOnUpdate: true,
		Default:        defaultRoleBinding,
		Columns:        roleBindingColumns(),
		Validate:       validateRoleBinding,
		ValidateUpdate: validateRoleBindingUpdate,
	}
}

func clusterRoles() resource.Kind[*v1.ClusterRole] {
	return resource.Kind[*v1.ClusterRole]{
		GVR:            group.WithResource("clusterroles"),
		Kind:           "ClusterRole",
		ClusterScoped:  true,
		New:            func() *v1.ClusterRole { return &v1.ClusterRole{} },
		NewList:        func() runtime.Object { return &v1.ClusterRoleList{} },
		NoGeneration:   true,
		ValidateName:   pathSegmentName, // names have colons: system:node
		CreateOnUpdate: true,
		Columns:        column.NameAndDate[*v1.ClusterRole](),
		Validate:       validateClusterRole,
	}
}

func clusterRoleBindings() resource.Kind[*v1.ClusterRoleBinding] {
	return resource.Kind[*v1.ClusterRoleBinding]{
		GVR:            group.WithResource("clusterrolebindings"),
		Kind:           "ClusterRoleBinding",
		ClusterScoped:  true,
		New:            func() *v1.ClusterRoleBinding { return &v1.ClusterRoleBinding{} },
		NewList:        func() runtime.Object { return &v1.ClusterRoleBindingList{} },
		NoGeneration:   true,
		ValidateName:   pathSegmentName, // names have colons: system:node
		CreateOnUpdate: true,
		Default:        defaultClusterRoleBinding,
		Columns:        clusterRoleBindingColumns(),
		Validate:       validateClusterRoleBinding,
		ValidateUpdate: validateClusterRoleBindingUpdate,
	}
}

// pathSegmentName is the rule for names that are looser than DNS labels: whatever can stand in a URL's path.
func pathSegmentName(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}
