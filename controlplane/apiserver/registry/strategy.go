// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// strategy is what one declaration says about creating, updating and deleting its objects.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind resource.Resource
	// versions are the API versions that serve the kind, for server-side apply.
	versions []string
}

var (
	_ rest.RESTCreateStrategy              = strategy{}
	_ rest.RESTUpdateStrategy              = strategy{}
	_ rest.GarbageCollectionDeleteStrategy = strategy{}
	_ rest.RESTGracefulDeleteStrategy      = strategy{}
	_ rest.ResetFieldsStrategy             = strategy{}
)

func (s strategy) NamespaceScoped() bool { return !s.kind.ClusterScoped }

func (s strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	o := obj.(resource.Object)
	if s.kind.HasStatus && !s.kind.StatusOnCreate {
		statusOf(o).SetZero()
	}
	if s.kind.PrepareCreate != nil {
		s.kind.PrepareCreate(ctx, o)
	}
	if !s.kind.NoGeneration {
		o.SetGeneration(1)
	}
}

func (s strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	o := obj.(resource.Object)
	name := s.kind.ValidateName
	if name == nil {
		name = validation.NameIsDNSSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(o, s.NamespaceScoped(), name, field.NewPath("metadata"))
	if s.kind.Validate != nil {
		errs = append(errs, s.kind.Validate(ctx, o)...)
	}
	return errs
}

func (s strategy) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	if s.kind.Warnings == nil {
		return nil
	}
	return s.kind.Warnings(ctx, obj.(resource.Object), nil)
}

func (strategy) Canonicalize(runtime.Object) {}

func (s strategy) AllowCreateOnUpdate(context.Context) bool { return s.kind.CreateOnUpdate }

func (s strategy) AllowUnconditionalUpdate(context.Context) bool {
	return !s.kind.ConditionalUpdateOnly
}

func (s strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, prev := obj.(resource.Object), old.(resource.Object)
	if s.kind.HasStatus {
		statusOf(o).Set(statusOf(prev))
	}
	if s.kind.PrepareUpdate != nil {
		s.kind.PrepareUpdate(ctx, o, prev)
	}
	if !s.kind.NoGeneration && !sameDesire(o, prev) {
		o.SetGeneration(prev.GetGeneration() + 1)
	}
}

// ValidateUpdate leaves metadata to k8s.io/apiserver, which compares it on every update.
func (s strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	o := obj.(resource.Object)
	var errs field.ErrorList
	if s.kind.Validate != nil {
		errs = s.kind.Validate(ctx, o)
	}
	if s.kind.ValidateUpdate != nil {
		errs = append(errs, s.kind.ValidateUpdate(ctx, o, old.(resource.Object))...)
	}
	return errs
}

func (s strategy) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	if s.kind.Warnings == nil {
		return nil
	}
	return s.kind.Warnings(ctx, obj.(resource.Object), old.(resource.Object))
}

func (s strategy) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.kind.DefaultPropagation == metav1.DeletePropagationOrphan {
		return rest.OrphanDependents
	}
	return rest.DeleteDependents
}

func (s strategy) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	if s.kind.GracePeriod == nil {
		return false
	}
	period := s.kind.GracePeriod(obj.(resource.Object), options.GracePeriodSeconds)
	if period == nil {
		return false
	}
	options.GracePeriodSeconds = period
	return true
}

// GetResetFields names what this strategy overwrites, so that server-side apply gives nobody ownership of it.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.kind.HasStatus {
		return nil
	}
	return s.reset(fieldpath.NewSet(fieldpath.MakePathOrDie("status")))
}

func (s strategy) reset(set *fieldpath.Set) map[fieldpath.APIVersion]*fieldpath.Set {
	fields := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, v := range s.versions {
		fields[fieldpath.APIVersion(v)] = set
	}
	return fields
}

// statusStrategy is strategy for the status subresource: only labels, annotations, finalizers and status may change.
type statusStrategy struct{ strategy }

func (s statusStrategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (s statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, prev := obj.(resource.Object), old.(resource.Object)
	keepDesire(o, prev)
	o.SetDeletionTimestamp(prev.GetDeletionTimestamp())
	o.SetDeletionGracePeriodSeconds(prev.GetDeletionGracePeriodSeconds())
	o.SetOwnerReferences(prev.GetOwnerReferences())
	if s.kind.PrepareStatus != nil {
		s.kind.PrepareStatus(ctx, o, prev)
	}
}

func (s statusStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if s.kind.ValidateStatus == nil {
		return nil
	}
	return s.kind.ValidateStatus(ctx, obj.(resource.Object), old.(resource.Object))
}

func (s statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet(
		fieldpath.MakePathOrDie("metadata", "deletionTimestamp"),
		fieldpath.MakePathOrDie("metadata", "ownerReferences"),
	)
	eachDesire(reflect.TypeOf(s.kind.New()).Elem(), func(i int, name string) {
		set.Insert(fieldpath.MakePathOrDie(name))
	})
	return s.reset(set)
}

// statusOf returns the addressable Status field of obj, which a declaration with HasStatus promises to have.
func statusOf(obj resource.Object) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName("Status")
}

// eachDesire visits the fields of an object type that say what is wanted: all but type, metadata and status.
func eachDesire(t reflect.Type, visit func(index int, jsonName string)) {
	for i := range t.NumField() {
		switch f := t.Field(i); f.Name {
		case "TypeMeta", "ObjectMeta", "Status":
		default:
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			visit(i, name)
		}
	}
}

// sameDesire reports whether a and b, of one type, want the same.
func sameDesire(a, b resource.Object) bool {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	same := true
	eachDesire(va.Type(), func(i int, _ string) {
		same = same && equality.Semantic.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface())
	})
	return same
}

// keepDesire makes obj want what old wants.
func keepDesire(obj, old resource.Object) {
	vo, vp := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old.DeepCopyObject()).Elem()
	eachDesire(vo.Type(), func(i int, _ string) { vo.Field(i).Set(vp.Field(i)) })
}

// assign overwrites what obj points at with what from points at.
func assign(obj, from resource.Object) {
	reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(from).Elem())
}
