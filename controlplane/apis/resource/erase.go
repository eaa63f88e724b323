// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Resource is a declaration without its type parameter: what a group hands to the assembly (func Resources() []resource.Resource).
// Its functions take exactly the objects that New returns; any other type panics.
type Resource = Kind[Object]

// Resource forgets k's type. Nil functions stay nil.
func (k Kind[T]) Resource() Resource {
	r := Resource{
		GVR:                   k.GVR,
		Kind:                  k.Kind,
		Singular:              k.Singular,
		ShortNames:            k.ShortNames,
		Categories:            k.Categories,
		ClusterScoped:         k.ClusterScoped,
		NewList:               k.NewList,
		HasStatus:             k.HasStatus,
		StatusOnCreate:        k.StatusOnCreate,
		NoGeneration:          k.NoGeneration,
		IndexFields:           k.IndexFields,
		CreateOnUpdate:        k.CreateOnUpdate,
		ConditionalUpdateOnly: k.ConditionalUpdateOnly,
		DefaultPropagation:    k.DefaultPropagation,
		SharesStorageWith:     k.SharesStorageWith,
		ValidateName:          k.ValidateName,
		Default:               eraseVisit(k.Default),
		Validate:              eraseValidate(k.Validate),
		ValidateUpdate:        eraseValidateUpdate(k.ValidateUpdate),
		ValidateStatus:        eraseValidateUpdate(k.ValidateStatus),
		PrepareUpdate:         erasePrepare(k.PrepareUpdate),
		PrepareStatus:         erasePrepare(k.PrepareStatus),
	}
	r.New = func() Object { return k.New() }
	if f := k.PrepareCreate; f != nil {
		r.PrepareCreate = func(ctx context.Context, obj Object) { f(ctx, obj.(T)) }
	}
	if f := k.Warnings; f != nil {
		r.Warnings = func(ctx context.Context, obj, old Object) []string {
			var o T
			if old != nil {
				o = old.(T)
			}
			return f(ctx, obj.(T), o)
		}
	}
	if f := k.Fields; f != nil {
		r.Fields = func(obj Object) fields.Set { return f(obj.(T)) }
	}
	if f := k.GracePeriod; f != nil {
		r.GracePeriod = func(obj Object, asked *int64) *int64 { return f(obj.(T), asked) }
	}
	if f := k.TTLSeconds; f != nil {
		r.TTLSeconds = func(obj Object) uint64 { return f(obj.(T)) }
	}
	if f := k.ToStored; f != nil {
		r.ToStored = func(obj Object) (Object, error) { return f(obj.(T)) }
	}
	if f := k.FromStored; f != nil {
		r.FromStored = func(obj Object) (Object, error) { return f(obj) }
	}
	for _, c := range k.Columns {
		value := c.Value
		r.Columns = append(r.Columns, Column[Object]{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority,
			Value: func(obj Object) any { return value(obj.(T)) }})
	}
	if s := k.Scale; s != nil {
		r.Scale = &Scale[Object]{
			Replicas:       func(obj Object) *int32 { return s.Replicas(obj.(T)) },
			SetReplicas:    func(obj Object, n int32) { s.SetReplicas(obj.(T), n) },
			StatusReplicas: func(obj Object) int32 { return s.StatusReplicas(obj.(T)) },
			Selector:       func(obj Object) (*metav1.LabelSelector, error) { return s.Selector(obj.(T)) },
		}
	}
	return r
}

func eraseVisit[T Object](f func(T)) func(Object) {
	if f == nil {
		return nil
	}
	return func(obj Object) { f(obj.(T)) }
}

func erasePrepare[T Object](f func(context.Context, T, T)) func(context.Context, Object, Object) {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, obj, old Object) { f(ctx, obj.(T), old.(T)) }
}

func eraseValidate[T Object](f func(context.Context, T) field.ErrorList) func(context.Context, Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, obj Object) field.ErrorList { return f(ctx, obj.(T)) }
}

func eraseValidateUpdate[T Object](f func(context.Context, T, T) field.ErrorList) func(context.Context, Object, Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, obj, old Object) field.ErrorList { return f(ctx, obj.(T), old.(T)) }
}
