// SPDX-License-Identifier: Apache-2.0

// Package policy declares the kinds of the policy group (v1). Eviction is a subresource of pods and lives with the API server.
package policy

import (
	v1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "policy", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		podDisruptionBudgets().Resource(),
	}
}

func podDisruptionBudgets() resource.Kind[*v1.PodDisruptionBudget] {
	return resource.Kind[*v1.PodDisruptionBudget]{
		GVR:                   group.WithResource("poddisruptionbudgets"),
		Kind:                  "PodDisruptionBudget",
		ShortNames:            []string{"pdb"},
		New:                   func() *v1.PodDisruptionBudget { return &v1.PodDisruptionBudget{} },
		NewList:               func() runtime.Object { return &v1.PodDisruptionBudgetList{} },
		HasStatus:             true,
		ConditionalUpdateOnly: true,
		Columns:               columns(),
		Validate:              validateBudget,
		ValidateStatus:        validateBudgetStatus,
	}
}
