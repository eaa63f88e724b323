// SPDX-License-Identifier: Apache-2.0

// Package coordination declares the kinds of the coordination.k8s.io group (v1).
package coordination

import (
	v1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		leases().Resource(),
	}
}

func leases() resource.Kind[*v1.Lease] {
	return resource.Kind[*v1.Lease]{
		GVR:                   group.WithResource("leases"),
		Kind:                  "Lease",
		New:                   func() *v1.Lease { return &v1.Lease{} },
		NewList:               func() runtime.Object { return &v1.LeaseList{} },
		NoGeneration:          true,
		CreateOnUpdate:        true,
		ConditionalUpdateOnly: true,
		Columns:               columns(),
		Validate:              validateLease,
	}
}
