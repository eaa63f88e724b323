// SPDX-License-Identifier: Apache-2.0

// Package storageobjectinuse puts the protection finalizers on new volumes, claims and volume attributes classes, so that none vanishes
// while something uses it. The protection controllers take them away.
package storageobjectinuse

import (
	"context"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
)

// PluginName is what the plugin is called in flags and configuration.
const PluginName = "StorageObjectInUseProtection"

var finalizers = map[schema.GroupResource]string{
	corev1.Resource("persistentvolumes"):          "kubernetes.io/pv-protection",
	corev1.Resource("persistentvolumeclaims"):     "kubernetes.io/pvc-protection",
	storagev1.Resource("volumeattributesclasses"): "kubernetes.io/vac-protection",
}

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct{ *admission.Handler }

var _ admission.MutationInterface = (*Plugin)(nil)

// New returns the plugin.
func New() *Plugin { return &Plugin{admission.NewHandler(admission.Create)} }

// Admit adds the finalizer.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	finalizer := finalizers[a.GetResource().GroupResource()]
	obj, ok := a.GetObject().(metav1.Object)
	if !ok || finalizer == "" || a.GetSubresource() != "" || slices.Contains(obj.GetFinalizers(), finalizer) {
		return nil
	}
	obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
	return nil
}
