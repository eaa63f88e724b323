// SPDX-License-Identifier: Apache-2.0

// Package scheduling declares the kinds of the scheduling.k8s.io group (v1).
package scheduling

import (
	v1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "scheduling.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		priorityClasses().Resource(),
	}
}

func priorityClasses() resource.Kind[*v1.PriorityClass] {
	return resource.Kind[*v1.PriorityClass]{
		GVR:            group.WithResource("priorityclasses"),
		Kind:           "PriorityClass",
		ShortNames:     []string{"pc"},
		ClusterScoped:  true,
		New:            func() *v1.PriorityClass { return &v1.PriorityClass{} },
		NewList:        func() runtime.Object { return &v1.PriorityClassList{} },
		Default:        defaultPriorityClass,
		Columns:        columns(),
		Validate:       validatePriorityClass,
		ValidateUpdate: validatePriorityClassUpdate,
	}
}
