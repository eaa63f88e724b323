// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// Main is the storage of a resource itself: all standard verbs.
type Main struct {
	*genericregistry.Store
	kind resource.Resource
}

var (
	_ rest.StandardStorage    = &Main{}
	_ rest.ShortNamesProvider = &Main{}
	_ rest.CategoriesProvider = &Main{}
)

// Update is the store's, but says 422 to a resource version that is none, where the store would fail.
func (m *Main) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc,
	force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return m.Store.Update(ctx, name, checked(info, m.kind), create, update, force, options)
}

// checked refuses objects whose resource version cannot be one of this server's.
func checked(info rest.UpdatedObjectInfo, kind resource.Resource) rest.UpdatedObjectInfo {
	return rest.WrapUpdatedObjectInfo(info, func(_ context.Context, obj, _ runtime.Object) (runtime.Object, error) {
		o, ok := obj.(resource.Object)
		if !ok {
			return obj, nil
		}
		if _, err := (storage.APIObjectVersioner{}).ParseResourceVersion(o.GetResourceVersion()); err != nil {
			return nil, apierrors.NewInvalid(schema.GroupKind{Group: kind.GVR.Group, Kind: kind.Kind}, o.GetName(), field.ErrorList{
				field.Invalid(field.NewPath("metadata", "resourceVersion"), o.GetResourceVersion(), "must be the resource version of an earlier read")})
		}
		return obj, nil
	})
}

// ShortNames and Categories appear in discovery.
func (m *Main) ShortNames() []string { return m.kind.ShortNames }
func (m *Main) Categories() []string { return m.kind.Categories }

// Status is the storage of the status subresource: get, update and patch. It shares the main resource's store.
type Status struct {
	store *genericregistry.Store
	kind  resource.Resource
}

var _ rest.Patcher = &Status{}

func (s *Status) New() runtime.Object { return s.store.New() }
func (s *Status) Destroy()            {}

func (s *Status) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, options)
}

func (s *Status) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc,
	_ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, checked(info, s.kind), create, update, false, options)
}

func (s *Status) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.store.GetResetFields()
}

func (s *Status) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return s.store.ConvertToTable(ctx, object, options)
}

// Built is what one declaration becomes. Status and Scale are nil when the kind has none.
type Built struct {
	Main   *Main
	Status *Status
	Scale  *Scale
}

// Build makes the storage of kind; versions are the API versions ("apps/v1") under which it is served.
// Main.Destroy ends the watch cache.
func Build(kind resource.Resource, versions []string, typer runtime.ObjectTyper, options generic.RESTOptionsGetter) (*Built, error) {
	s := strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator, kind: kind, versions: versions}
	singular := kind.Singular
	if singular == "" {
		singular = lowerASCII(kind.Kind)
	}
	attributes := attributesOf(kind)
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return kind.New() },
		NewListFunc:               kind.NewList,
		DefaultQualifiedResource:  kind.GVR.GroupResource(),
		SingularQualifiedResource: schema.GroupResource{Group: kind.GVR.Group, Resource: singular},
		PredicateFunc: func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attributes, IndexFields: kind.IndexFields}
		},
		CreateStrategy:      s,
		UpdateStrategy:      s,
		DeleteStrategy:      s,
		ResetFieldsStrategy: s,
		TableConvertor:      newTable(kind.Columns),
	}
	if kind.TTLSeconds != nil {
		store.TTLFunc = func(obj runtime.Object, existing uint64, update bool) (uint64, error) {
			return kind.TTLSeconds(obj.(resource.Object)), nil
		}
	}
	store.ShouldDeleteDuringUpdate = ended // before the store is copied: a write of the status must not end an object that a write of the spec would not
	triggers, indexers := indexes(kind)
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: attributes, TriggerFunc: triggers, Indexers: indexers}); err != nil {
		return nil, fmt.Errorf("build the storage of %s: %w", kind.GVR.GroupResource(), err)
	}
	built := &Built{Main: &Main{Store: store, kind: kind}}
	if kind.HasStatus {
		st := *store
		st.UpdateStrategy = statusStrategy{s}
		st.ResetFieldsStrategy = statusStrategy{s}
		built.Status = &Status{store: &st, kind: kind}
	}
	if kind.Scale != nil {
		built.Scale = &Scale{store: store, kind: kind, versions: versions}
	}
	return built, nil
}

// ended tells whether an update lets a terminating object go. A namespace is held by its spec.finalizers, too.
func ended(ctx context.Context, key string, obj, existing runtime.Object) bool {
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return false
	}
	return genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
}

// attributesOf returns what selectors see of an object: its labels, metadata.name, metadata.namespace and the declared fields.
func attributesOf(kind resource.Resource) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		o, ok := obj.(resource.Object)
		if !ok {
			return nil, nil, fmt.Errorf("%T is not a %s", obj, kind.Kind)
		}
		var set fields.Set
		if kind.Fields != nil {
			set = kind.Fields(o)
		}
		if set == nil {
			set = make(fields.Set, 2)
		}
		set["metadata.name"] = o.GetName()
		if !kind.ClusterScoped {
			set["metadata.namespace"] = o.GetNamespace()
		}
		return o.GetLabels(), set, nil
	}
}

func indexes(kind resource.Resource) (storage.IndexerFuncs, *cache.Indexers) {
	if len(kind.IndexFields) == 0 {
		return nil, nil
	}
	triggers, indexers := storage.IndexerFuncs{}, cache.Indexers{}
	for _, name := range kind.IndexFields {
		triggers[name] = func(obj runtime.Object) string { return kind.Fields(obj.(resource.Object))[name] }
		indexers[storage.FieldIndex(name)] = func(obj any) ([]string, error) {
			o, ok := obj.(resource.Object)
			if !ok {
				return nil, fmt.Errorf("%T is not a %s", obj, kind.Kind)
			}
			return []string{kind.Fields(o)[name]}, nil
		}
	}
	return triggers, &indexers
}

func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
