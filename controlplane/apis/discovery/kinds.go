// SPDX-License-Identifier: Apache-2.0

// Package discovery declares the kinds of the discovery.k8s.io group (v1).
package discovery

import (
	v1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		endpointSlices().Resource(),
	}
}

func endpointSlices() resource.Kind[*v1.EndpointSlice] {
	return resource.Kind[*v1.EndpointSlice]{
		GVR:            group.WithResource("endpointslices"),
		Kind:           "EndpointSlice",
		New:            func() *v1.EndpointSlice { return &v1.EndpointSlice{} },
		NewList:        func() runtime.Object { return &v1.EndpointSliceList{} },
		Default:        defaultEndpointSlice,
		Columns:        columns(),
		Validate:       validateEndpointSlice,
		ValidateUpdate: validateEndpointSliceUpdate,
	}
}
