// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// Scale is the storage of the scale subresource: a view of the main resource as autoscaling/v1 Scale.
type Scale struct {
	store    *genericregistry.Store
	kind     resource.Resource
	versions []string
}

var (
	_ rest.Patcher                  = &Scale{}
	_ rest.GroupVersionKindProvider = &Scale{}
)

func (s *Scale) New() runtime.Object { return &autoscalingv1.Scale{} }
func (s *Scale) Destroy()            {}

func (s *Scale) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (s *Scale) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return s.view(obj.(resource.Object))
}

func (s *Scale) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc,
	_ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := s.store.Update(ctx, name, scaledInfo{scale: s, wanted: info},
		func(ctx context.Context, obj runtime.Object) error {
			v, err := s.view(obj.(resource.Object))
			if err != nil || create == nil {
				return err
			}
			return create(ctx, v)
		},
		func(ctx context.Context, obj, old runtime.Object) error {
			v, err := s.view(obj.(resource.Object))
			if err != nil || update == nil {
				return err
			}
			prev, err := s.view(old.(resource.Object))
			if err != nil {
				return err
			}
			return update(ctx, v, prev)
		}, false, options)
	if err != nil {
		return nil, false, err
	}
	v, err := s.view(obj.(resource.Object))
	return v, false, err
}

func (s *Scale) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return newTable([]resource.Column[resource.Object]{
		{Name: "Name", Format: "name", Value: func(o resource.Object) any { return o.GetName() }},
		{Name: "Desired", Type: "integer", Description: "Number of replicas asked for.",
			Value: func(o resource.Object) any { return int64(o.(*autoscalingv1.Scale).Spec.Replicas) }},
		{Name: "Available", Type: "integer", Description: "Number of replicas that exist.",
			Value: func(o resource.Object) any { return int64(o.(*autoscalingv1.Scale).Status.Replicas) }},
		{Name: "Age", Value: func(o resource.Object) any { return age(o.GetCreationTimestamp()) }},
	}).ConvertToTable(ctx, object, options)
}

// view returns obj as a Scale.
func (s *Scale) view(obj resource.Object) (*autoscalingv1.Scale, error) {
	selector, err := s.kind.Scale.Selector(obj)
	if err != nil {
		return nil, fmt.Errorf("selector of %s %s/%s: %w", s.kind.Kind, obj.GetNamespace(), obj.GetName(), err)
	}
	text := ""
	if selector != nil {
		parsed, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			return nil, fmt.Errorf("selector of %s %s/%s: %w", s.kind.Kind, obj.GetNamespace(), obj.GetName(), err)
		}
		text = parsed.String()
	}
	managed, err := managedfields.NewScaleHandler(obj.GetManagedFields(), s.kind.GVR.GroupVersion(), s.paths()).ToSubresource()
	if err != nil {
		return nil, err
	}
	v := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name:              obj.GetName(),
			Namespace:         obj.GetNamespace(),
			UID:               obj.GetUID(),
			ResourceVersion:   obj.GetResourceVersion(),
			CreationTimestamp: obj.GetCreationTimestamp(),
			ManagedFields:     managed,
		},
		Status: autoscalingv1.ScaleStatus{Replicas: s.kind.Scale.StatusReplicas(obj), Selector: text},
	}
	if n := s.kind.Scale.Replicas(obj); n != nil {
		v.Spec.Replicas = *n
	}
	return v, nil
}

func (s *Scale) paths() managedfields.ResourcePathMappings {
	paths := managedfields.ResourcePathMappings{}
	for _, v := range s.versions {
		paths[v] = fieldpath.MakePathOrDie("spec", "replicas")
	}
	return paths
}

// scaledInfo turns an update of the Scale into an update of the object behind it.
type scaledInfo struct {
	scale  *Scale
	wanted rest.UpdatedObjectInfo
}

func (i scaledInfo) Preconditions() *metav1.Preconditions { return i.wanted.Preconditions() }

func (i scaledInfo) UpdatedObject(ctx context.Context, oldObj runtime.Object) (runtime.Object, error) {
	obj := oldObj.DeepCopyObject().(resource.Object)
	oldScale, err := i.scale.view(obj)
	if err != nil {
		return nil, err
	}
	wanted, err := i.wanted.UpdatedObject(ctx, oldScale)
	if err != nil {
		return nil, err
	}
	v, ok := wanted.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a Scale, got %T", wanted))
	}
	if v.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), v.Name,
			field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), v.Spec.Replicas, "must be greater than or equal to 0")})
	}
	if v.ResourceVersion != "" && v.ResourceVersion != obj.GetResourceVersion() {
		return nil, apierrors.NewConflict(i.scale.kind.GVR.GroupResource(), obj.GetName(), fmt.Errorf("%s", genericregistry.OptimisticLockErrorMsg))
	}
	managed, err := managedfields.NewScaleHandler(obj.GetManagedFields(), i.scale.kind.GVR.GroupVersion(), i.scale.paths()).ToParent(v.ManagedFields)
	if err != nil {
		return nil, err
	}
	i.scale.kind.Scale.SetReplicas(obj, v.Spec.Replicas)
	obj.SetResourceVersion(v.ResourceVersion)
	obj.SetManagedFields(managed)
	return obj, nil
}
