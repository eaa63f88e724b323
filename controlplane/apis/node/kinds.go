// SPDX-License-Identifier: Apache-2.0

// Package node declares the kinds of the node.k8s.io group (v1).
package node

import (
	v1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "node.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		runtimeClasses().Resource(),
	}
}

func runtimeClasses() resource.Kind[*v1.RuntimeClass] {
	return resource.Kind[*v1.RuntimeClass]{
		GVR:                   group.WithResource("runtimeclasses"),
		Kind:                  "RuntimeClass",
		ClusterScoped:         true,
		New:                   func() *v1.RuntimeClass { return &v1.RuntimeClass{} },
		NewList:               func() runtime.Object { return &v1.RuntimeClassList{} },
		NoGeneration:          true,
		ConditionalUpdateOnly: true,
		Default:               defaultRuntimeClass,
		Columns:               columns(),
		Validate:              validateRuntimeClass,
		ValidateUpdate:        validateRuntimeClassUpdate,
	}
}
