// SPDX-License-Identifier: Apache-2.0

// Package dra declares the kinds of the resource.k8s.io group (v1): dynamic resource allocation.
package dra

import (
	v1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "resource.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		deviceClasses().Resource(),
		deviceTaintRules().Resource(),
		resourceClaims().Resource(),
		resourceClaimTemplates().Resource(),
		resourceSlices().Resource(),
	}
}

func deviceClasses() resource.Kind[*v1.DeviceClass] {
	return resource.Kind[*v1.DeviceClass]{
		GVR:           group.WithResource("deviceclasses"),
		Kind:          "DeviceClass",
		ClusterScoped: true,
		New:           func() *v1.DeviceClass { return &v1.DeviceClass{} },
		NewList:       func() runtime.Object { return &v1.DeviceClassList{} },
		Validate:      validateClass,
	}
}

func deviceTaintRules() resource.Kind[*v1.DeviceTaintRule] {
	return resource.Kind[*v1.DeviceTaintRule]{
		GVR:            group.WithResource("devicetaintrules"),
		Kind:           "DeviceTaintRule",
		ClusterScoped:  true,
		New:            func() *v1.DeviceTaintRule { return &v1.DeviceTaintRule{} },
		NewList:        func() runtime.Object { return &v1.DeviceTaintRuleList{} },
		HasStatus:      true,
		Default:        defaultDeviceTaintRule,
		Validate:       validateTaintRule,
		ValidateUpdate: validateTaintRuleUpdate,
		ValidateStatus: validateTaintRuleStatus,
	}
}

func resourceClaims() resource.Kind[*v1.ResourceClaim] {
	return resource.Kind[*v1.ResourceClaim]{
		GVR:            group.WithResource("resourceclaims"),
		Kind:           "ResourceClaim",
		New:            func() *v1.ResourceClaim { return &v1.ResourceClaim{} },
		NewList:        func() runtime.Object { return &v1.ResourceClaimList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Default:        defaultResourceClaim,
		Columns:        resourceClaimColumns(),
		Validate:       validateClaim,
		ValidateUpdate: validateClaimUpdate,
		ValidateStatus: validateClaimStatus,
	}
}

func resourceClaimTemplates() resource.Kind[*v1.ResourceClaimTemplate] {
	return resource.Kind[*v1.ResourceClaimTemplate]{
		GVR:            group.WithResource("resourceclaimtemplates"),
		Kind:           "ResourceClaimTemplate",
		New:            func() *v1.ResourceClaimTemplate { return &v1.ResourceClaimTemplate{} },
		NewList:        func() runtime.Object { return &v1.ResourceClaimTemplateList{} },
		NoGeneration:   true,
		Default:        defaultResourceClaimTemplate,
		Validate:       validateClaimTemplate,
		ValidateUpdate: validateClaimTemplateUpdate,
	}
}

func resourceSlices() resource.Kind[*v1.ResourceSlice] {
	return resource.Kind[*v1.ResourceSlice]{
		GVR:            group.WithResource("resourceslices"),
		Kind:           "ResourceSlice",
		ClusterScoped:  true,
		New:            func() *v1.ResourceSlice { return &v1.ResourceSlice{} },
		NewList:        func() runtime.Object { return &v1.ResourceSliceList{} },
		Fields:         sliceFields,
		IndexFields:    []string{"spec.nodeName"},
		Default:        defaultResourceSlice,
		Columns:        resourceSliceColumns(),
		Validate:       validateSlice,
		ValidateUpdate: validateSliceUpdate,
	}
}
