// SPDX-License-Identifier: Apache-2.0

// Package autoscaling declares HorizontalPodAutoscaler in its two stable versions. v2 is what is stored and kept in memory; v1 is a view of it
// (convert.go): what v1 has no field for travels in annotations, so that a v1 client's read-modify-write loses nothing.
package autoscaling

import (
	v1 "k8s.io/api/autoscaling/v1"
	v2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var stored = v2.SchemeGroupVersion.WithResource("horizontalpodautoscalers")

// Resources are the declarations of the group, the stored version first.
func Resources() []resource.Resource {
	return []resource.Resource{
		horizontalPodAutoscalers().Resource(),
		horizontalPodAutoscalersV1().Resource(),
	}
}

func horizontalPodAutoscalers() resource.Kind[*v2.HorizontalPodAutoscaler] {
	return resource.Kind[*v2.HorizontalPodAutoscaler]{
		GVR:            stored,
		Kind:           "HorizontalPodAutoscaler",
		ShortNames:     []string{"hpa"},
		Categories:     []string{"all"},
		New:            func() *v2.HorizontalPodAutoscaler { return &v2.HorizontalPodAutoscaler{} },
		NewList:        func() runtime.Object { return &v2.HorizontalPodAutoscalerList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Default:        defaultHPA,
		Columns:        columns(),
		Validate:       validateHPA,
		ValidateStatus: validateHPAStatus,
	}
}

func horizontalPodAutoscalersV1() resource.Kind[*v1.HorizontalPodAutoscaler] {
	return resource.Kind[*v1.HorizontalPodAutoscaler]{
		GVR:               v1.SchemeGroupVersion.WithResource("horizontalpodautoscalers"),
		Kind:              "HorizontalPodAutoscaler",
		ShortNames:        []string{"hpa"},
		Categories:        []string{"all"},
		New:               func() *v1.HorizontalPodAutoscaler { return &v1.HorizontalPodAutoscaler{} },
		NewList:           func() runtime.Object { return &v1.HorizontalPodAutoscalerList{} },
		HasStatus:         true,
		NoGeneration:      true,
		Default:           defaultV1,
		SharesStorageWith: &stored,
		ToStored:          toStored,
		FromStored:        fromStored,
	}
}
