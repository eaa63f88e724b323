// SPDX-License-Identifier: Apache-2.0

// Package resource is the form in which every built-in kind is declared: one Kind value per kind, written in the folder of its API group
// (controlplane/apis/<group>). The generic assembly in controlplane/apiserver turns declarations into REST storage, discovery, tables and
// OpenAPI; a declaration never touches HTTP or etcd.
//
// The versioned types of k8s.io/api are memory and storage version at once: there are no internal types and no conversions.
package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is what a declared type must be: a pointer to a struct of k8s.io/api with object metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Column is one column of the server-side table (kubectl get). Priority 0 is always shown, 1 only with -o wide.
type Column[T Object] struct {
	Name        string
	Type        string // OpenAPI type: string, integer, date; empty means string
	Format      string // "name" for the object's name
	Description string
	Priority    int32
	Value       func(T) any
}

// Kind declares one kind; T is its versioned pointer type. Nil functions mean "nothing to do".
type Kind[T Object] struct {
	GVR           schema.GroupVersionResource
	Kind          string
	Singular      string   // default: lower-case Kind
	ShortNames    []string // po, svc, ...
	Categories    []string // all, api-extensions, ...
	ClusterScoped bool

	New     func() T
	NewList func() runtime.Object

	// Default fills unset fields as the API reference documents. It is registered with the scheme, so it runs on every decode
	// (requests and storage) and must be idempotent.
	Default func(T)
	// PrepareCreate clears what clients may not set (status, ...) and sets what the server owns. Generation is kept by the assembly.
	PrepareCreate func(ctx context.Context, obj T)
	// PrepareUpdate carries over from old what an ordinary update may not change. Status is carried over by the assembly when HasStatus.
	PrepareUpdate func(ctx context.Context, obj, old T)
	// Validate returns all errors of obj at once (metadata is validated by the assembly).
	Validate func(ctx context.Context, obj T) field.ErrorList
	// ValidateUpdate returns the errors of the step old -> obj (immutable fields); Validate runs as well.
	ValidateUpdate func(ctx context.Context, obj, old T) field.ErrorList
	// ValidateStatus returns the errors of a status update; spec and metadata come from old except labels, annotations and finalizers.
	ValidateStatus func(ctx context.Context, obj, old T) field.ErrorList
	// PrepareStatus runs on a status update after the assembly took everything but labels, annotations, finalizers and status from old.
	PrepareStatus func(ctx context.Context, obj, old T)
	// Warnings are returned to the client as HTTP warning headers; old is nil on create.
	Warnings func(ctx context.Context, obj, old T) []string
	// ValidateName overrides the default name rule (DNS subdomain).
	ValidateName func(name string, prefix bool) []string

	HasStatus bool // serves /status
	// StatusOnCreate keeps the status that a create brings along (Node); otherwise it starts empty.
	StatusOnCreate bool
	// Scale serves /scale when not nil.
	Scale *Scale[T]
	// NoGeneration is set for kinds without spec semantics (ConfigMap, Secret, Event...). Spec selects what bumps generation; nil with NoGeneration
	// false compares everything but metadata and status.
	NoGeneration bool

	// Fields are the selectable fields besides metadata.name and metadata.namespace.
	Fields func(T) fields.Set
	// IndexFields names those Fields (as "spec.nodeName") for which the watch cache keeps an index.
	IndexFields []string

	Columns []Column[T] // without Columns: NAME and AGE

	// GracePeriod returns the seconds that deletion of obj waits for, nil for immediate deletion. Asked is the caller's wish, nil when unset.
	GracePeriod func(obj T, asked *int64) *int64
	// CreateOnUpdate permits PUT of a name that does not exist.
	CreateOnUpdate bool
	// ConditionalUpdateOnly refuses updates without resourceVersion.
	ConditionalUpdateOnly bool
	// DefaultPropagation is the propagation policy of a DELETE that names none; empty means background.
	DefaultPropagation metav1.DeletionPropagation
	// TTLSeconds returns the time to live in the store; 0 means forever (Events).
	TTLSeconds func(obj T) uint64
	// SharesStorageWith names the kind whose stored objects this one also serves (events.k8s.io/v1 Event and v1 Event).
	// The other kind's type is then the one in memory; ToStored and FromStored translate to and from it (new objects, metadata included,
	// nothing shared that either side may change), and only New, NewList, Kind, names and Default of this declaration are used: preparation,
	// validation and columns are the other kind's.
	SharesStorageWith *schema.GroupVersionResource
	ToStored          func(T) (Object, error)
	FromStored        func(Object) (T, error)
}

// Scale maps a kind onto autoscaling/v1 Scale.
type Scale[T Object] struct {
	Replicas       func(T) *int32 // spec.replicas
	SetReplicas    func(T, int32)
	StatusReplicas func(T) int32
	Selector       func(T) (*metav1.LabelSelector, error)
}
