// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

func installPods(put Put, pods *registry.Main, k *kubelet, cfg Config) {
	v1 := corev1.SchemeGroupVersion
	put(v1, "pods/binding", &binding{pods: pods})
	put(v1, "bindings", &legacyBinding{binding{pods: pods}})
	put(v1, "pods/eviction", &eviction{pods: pods, client: cfg.Client})
	put(v1, "pods/ephemeralcontainers", ephemeralContainers(pods))
	put(v1, "pods/resize", resize(pods))
	put(v1, "pods/log", &podLog{pods: pods, kubelet: k})
	put(v1, "pods/exec", &podExec{pods: pods, kubelet: k})
	put(v1, "pods/attach", &podAttach{pods: pods, kubelet: k})
	put(v1, "pods/portforward", &podPortForward{pods: pods, kubelet: k})
	put(v1, "pods/proxy", &podProxy{pods: pods, kubelet: k})
}

// binding is pods/binding: it puts a pod on a node, once.
type binding struct{ pods *registry.Main }

var _ rest.NamedCreater = &binding{}

func (b *binding) New() runtime.Object   { return &corev1.Binding{} }
func (b *binding) Destroy()              {}
func (b *binding) NamespaceScoped() bool { return true }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps uid and resourceVersion of the request: they are preconditions.
func (b *binding) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (b *binding) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	in, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", obj))
	}
	if in.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(in); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Binding"}, name, errs)
	}
	if validate != nil {
		if err := validate(ctx, in.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	key, err := b.pods.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	var preconditions *storage.Preconditions
	if in.UID != "" || in.ResourceVersion != "" {
		preconditions = &storage.Preconditions{}
		if in.UID != "" {
			preconditions.UID = &in.UID
		}
		if in.ResourceVersion != "" {
			preconditions.ResourceVersion = &in.ResourceVersion
		}
	}
	dry := options != nil && dryrun.IsDryRun(options.DryRun)
	err = b.pods.Storage.GuaranteedUpdate(ctx, key, &corev1.Pod{}, false, preconditions, storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
		return bind(existing.(*corev1.Pod), in)
	}), dry, nil)
	if err != nil {
		err = storeerr.InterpretGetError(err, corev1.Resource("pods"), name)
		err = storeerr.InterpretUpdateError(err, corev1.Resource("pods"), name)
		if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
			err = apierrors.NewConflict(corev1.Resource("pods/binding"), name, err)
		}
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func bind(pod *corev1.Pod, in *corev1.Binding) (*corev1.Pod, error) {
	switch {
	case pod.DeletionTimestamp != nil:
		return nil, fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return nil, fmt.Errorf("pod %s is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return nil, fmt.Errorf("pod %s has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = in.Target.Name
	for k, v := range in.Annotations {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
	}
	for k, v := range in.Labels {
		metav1.SetMetaDataLabel(&pod.ObjectMeta, k, v)
	}
	setCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	return pod, nil
}

func setCondition(status *corev1.PodStatus, c corev1.PodCondition) {
	for i := range status.Conditions {
		if old := &status.Conditions[i]; old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	status.Conditions = append(status.Conditions, c)
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

// legacyBinding is the bindings resource, where the pod's name is that of the object.
type legacyBinding struct{ binding binding }

func (b *legacyBinding) New() runtime.Object     { return &corev1.Binding{} }
func (b *legacyBinding) Destroy()                {}
func (b *legacyBinding) NamespaceScoped() bool   { return true }
func (b *legacyBinding) GetSingularName() string { return "binding" }

func (b *legacyBinding) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	in, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", obj))
	}
	return b.binding.Create(ctx, in.Name, obj, validate, options)
}

// getPod reads a pod of the request's namespace.
func getPod(ctx context.Context, pods *registry.Main, name string) (*corev1.Pod, error) {
	obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}
