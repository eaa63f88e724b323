// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// Part describes a subresource that updates a part of the main resource's objects (pods/resize, certificatesigningrequests/approval).
type Part struct {
	// Take moves the part from wanted into obj, which starts as a copy of the stored object. Wanted must not be changed.
	Take func(ctx context.Context, obj, wanted resource.Object)
	// Metadata takes wanted's labels, annotations and finalizers as well.
	Metadata bool
	// Validate returns all errors of the step from old to obj.
	Validate func(ctx context.Context, obj, old resource.Object) field.ErrorList
}

// Part returns the storage of a subresource of m.
func (m *Main) Part(p Part) *Status {
	base := m.UpdateStrategy.(strategy)
	st := *m.Store
	st.UpdateStrategy = partStrategy{base, p}
	st.ResetFieldsStrategy = partStrategy{base, p}
	return &Status{store: &st, kind: m.kind}
}

type partStrategy struct {
	strategy
	part Part
}

func (s partStrategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (s partStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, prev := obj.(resource.Object), old.(resource.Object)
	wanted := o.DeepCopyObject().(resource.Object)
	fresh := prev.DeepCopyObject().(resource.Object)
	if s.part.Metadata {
		fresh.SetLabels(o.GetLabels())
		fresh.SetAnnotations(o.GetAnnotations())
		fresh.SetFinalizers(o.GetFinalizers())
	}
	s.part.Take(ctx, fresh, wanted)
	fresh.SetResourceVersion(o.GetResourceVersion())
	fresh.SetUID(o.GetUID())
	fresh.SetManagedFields(o.GetManagedFields())
	if !s.kind.NoGeneration && !sameDesire(fresh, prev) {
		fresh.SetGeneration(prev.GetGeneration() + 1)
	}
	assign(o, fresh)
}

func (s partStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if s.part.Validate == nil {
		return nil
	}
	return s.part.Validate(ctx, obj.(resource.Object), old.(resource.Object))
}

func (s partStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s partStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return nil }

// Validate returns all errors of obj by the kind's own rules, for subresources that change a part of it.
func (m *Main) Validate(ctx context.Context, obj resource.Object) field.ErrorList {
	if m.kind.Validate == nil {
		return nil
	}
	return m.kind.Validate(ctx, obj)
}
