// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

// installNamespaces replaces the storage of namespaces: a deleted one stays, terminating, until its spec.finalizers are gone.
func installNamespaces(put Put, main *registry.Main) {
	finalize := main.Part(registry.Part{Metadata: true, Take: func(_ context.Context, obj, wanted resource.Object) {
		obj.(*corev1.Namespace).Spec.Finalizers = slices.Clone(wanted.(*corev1.Namespace).Spec.Finalizers)
	}})
	put(corev1.SchemeGroupVersion, "namespaces", &namespaces{main})
	put(corev1.SchemeGroupVersion, "namespaces/finalize", &namespaceFinalize{finalize})
}

// namespaceFinalize is namespaces/finalize. It can only be updated: the finalizers are read, and patched, with the namespace.
type namespaceFinalize struct{ part *registry.Status }

var _ rest.Updater = &namespaceFinalize{}

func (f *namespaceFinalize) New() runtime.Object { return f.part.New() }
func (f *namespaceFinalize) Destroy()            { f.part.Destroy() }
func (f *namespaceFinalize) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return f.part.GetResetFields()
}

func (f *namespaceFinalize) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc,
	force bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return f.part.Update(ctx, name, info, create, update, force, o)
}

// namespaces is a store without deletecollection and with two-step deletion.
type namespaces struct{ store *registry.Main }

var (
	_ rest.Getter             = &namespaces{}
	_ rest.Lister             = &namespaces{}
	_ rest.CreaterUpdater     = &namespaces{}
	_ rest.GracefulDeleter    = &namespaces{}
	_ rest.Watcher            = &namespaces{}
	_ rest.ShortNamesProvider = &namespaces{}
)

func (n *namespaces) New() runtime.Object                    { return n.store.New() }
func (n *namespaces) NewList() runtime.Object                { return n.store.NewList() }
func (n *namespaces) Destroy()                               { n.store.Destroy() }
func (n *namespaces) NamespaceScoped() bool                  { return false }
func (n *namespaces) GetSingularName() string                { return n.store.GetSingularName() }
func (n *namespaces) ShortNames() []string                   { return n.store.ShortNames() }
func (n *namespaces) Categories() []string                   { return n.store.Categories() }
func (n *namespaces) StorageVersion() runtime.GroupVersioner { return n.store.StorageVersion() }
func (n *namespaces) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return n.store.GetResetFields()
}
func (n *namespaces) ReadinessCheck() error { return n.store.ReadinessCheck() }
func (n *namespaces) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return n.store.Get(ctx, name, o)
}

func (n *namespaces) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	return n.store.List(ctx, o)
}

func (n *namespaces) Watch(ctx context.Context, o *metainternalversion.ListOptions) (watch.Interface, error) {
	return n.store.Watch(ctx, o)
}

func (n *namespaces) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return n.store.ConvertToTable(ctx, object, options)
}

func (n *namespaces) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	return n.store.Create(ctx, obj, validate, o)
}

func (n *namespaces) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc,
	force bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return n.store.Update(ctx, name, info, create, update, force, o)
}

// Delete marks a living namespace as terminating and removes one whose finalizers are all gone.
func (n *namespaces) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := n.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.UID == nil {
		options.Preconditions.UID = &ns.UID
	}
	if !ns.DeletionTimestamp.IsZero() {
		if len(ns.Spec.Finalizers) > 0 {
			return ns, false, nil
		}
		return n.store.Delete(ctx, name, validate, options)
	}
	key, err := n.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	preconditions := &storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	out := n.store.New()
	err = n.store.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
		ns := existing.(*corev1.Namespace)
		if validate != nil {
			if err := validate(ctx, ns); err != nil {
				return nil, err
			}
		}
		if ns.DeletionTimestamp.IsZero() {
			now := metav1.Now()
			ns.DeletionTimestamp = &now
		}
		ns.Status.Phase = corev1.NamespaceTerminating
		ns.Finalizers = finalizersFor(ns.Finalizers, options)
		return ns, nil
	}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storeerr.InterpretGetError(err, corev1.Resource("namespaces"), name)
		err = storeerr.InterpretUpdateError(err, corev1.Resource("namespaces"), name)
		if !apierrors.IsNotFound(err) && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
			err = apierrors.NewInternalError(err)
		}
		return nil, false, err
	}
	return out, false, nil
}

// finalizersFor returns current with the garbage collector's finalizers as the delete options ask.
func finalizersFor(current []string, o *metav1.DeleteOptions) []string {
	set := func(name string, wanted bool) {
		has := slices.Contains(current, name)
		switch {
		case wanted && !has:
			current = append(current, name)
		case !wanted && has:
			current = slices.DeleteFunc(slices.Clone(current), func(f string) bool { return f == name })
		}
	}
	//nolint:staticcheck // OrphanDependents is deprecated, not removed: old clients send it.
	if orphan := o.OrphanDependents; orphan != nil {
		set(metav1.FinalizerOrphanDependents, *orphan)
		return current
	}
	if p := o.PropagationPolicy; p != nil {
		set(metav1.FinalizerOrphanDependents, *p == metav1.DeletePropagationOrphan)
		set(metav1.FinalizerDeleteDependents, *p == metav1.DeletePropagationForeground)
	}
	return current
}
