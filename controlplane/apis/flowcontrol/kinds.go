// SPDX-License-Identifier: Apache-2.0

// Package flowcontrol declares the kinds of the flowcontrol.apiserver.k8s.io group (v1).
package flowcontrol

import (
	v1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		flowSchemas().Resource(),
		priorityLevelConfigurations().Resource(),
	}
}

func flowSchemas() resource.Kind[*v1.FlowSchema] {
	return resource.Kind[*v1.FlowSchema]{
		GVR:            group.WithResource("flowschemas"),
		Kind:           "FlowSchema",
		ClusterScoped:  true,
		New:            func() *v1.FlowSchema { return &v1.FlowSchema{} },
		NewList:        func() runtime.Object { return &v1.FlowSchemaList{} },
		HasStatus:      true,
		Default:        defaultFlowSchema,
		Columns:        flowSchemaColumns(),
		Validate:       validateFlowSchema,
		ValidateStatus: validateFlowSchemaStatus,
	}
}

func priorityLevelConfigurations() resource.Kind[*v1.PriorityLevelConfiguration] {
	return resource.Kind[*v1.PriorityLevelConfiguration]{
		GVR:            group.WithResource("prioritylevelconfigurations"),
		Kind:           "PriorityLevelConfiguration",
		ClusterScoped:  true,
		New:            func() *v1.PriorityLevelConfiguration { return &v1.PriorityLevelConfiguration{} },
		NewList:        func() runtime.Object { return &v1.PriorityLevelConfigurationList{} },
		HasStatus:      true,
		Default:        defaultPriorityLevel,
		Columns:        priorityLevelColumns(),
		Validate:       validatePriorityLevel,
		ValidateStatus: validatePriorityLevelStatus,
	}
}
