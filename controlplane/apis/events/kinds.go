// SPDX-License-Identifier: Apache-2.0

// Package events declares events.k8s.io/v1 Event: another spelling of the core group's Event, whose stored objects it serves.
package events

import (
	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var (
	group  = schema.GroupVersion{Group: "events.k8s.io", Version: "v1"}
	stored = corev1.SchemeGroupVersion.WithResource("events")
)

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		events().Resource(),
	}
}

func events() resource.Kind[*v1.Event] {
	return resource.Kind[*v1.Event]{
		GVR:               group.WithResource("events"),
		Kind:              "Event",
		ShortNames:        []string{"ev"},
		New:               func() *v1.Event { return &v1.Event{} },
		NewList:           func() runtime.Object { return &v1.EventList{} },
		NoGeneration:      true,
		SharesStorageWith: &stored,
		ToStored:          toStored,
		FromStored:        fromStored,
	}
}
