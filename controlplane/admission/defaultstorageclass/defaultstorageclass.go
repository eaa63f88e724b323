// SPDX-License-Identifier: Apache-2.0

// Package defaultstorageclass gives the default StorageClass to volume claims that name none.
package defaultstorageclass

import (
	"context"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

const (
	// PluginName is what the plugin is called in flags and configuration.
	PluginName = "DefaultStorageClass"

	annotation     = "storageclass.kubernetes.io/is-default-class"
	betaAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
}

var (
	_ admission.MutationInterface                  = (*Plugin)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Plugin)(nil)
)

// New returns the plugin, to be initialised by its Set method.
func New() *Plugin { return &Plugin{Handler: admission.NewHandler(admission.Create)} }

func (p *Plugin) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	informer := f.Storage().V1().StorageClasses()
	p.classes = informer.Lister()
	p.SetReadyFunc(informer.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.classes == nil {
		return fmt.Errorf("%s needs informers", PluginName)
	}
	return nil
}

// Admit names the class. A claim that names the empty class wants none.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") || a.GetSubresource() != "" {
		return nil
	}
	if _, old := claim.Annotations[corev1.BetaStorageClassAnnotation]; old || claim.Spec.StorageClassName != nil {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("storage classes are not read yet, try again"))
	}
	list, err := p.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if class := Default(list); class != nil {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

// Default returns the newest class that is marked as default, the first by name of several as new; nil when none is marked.
func Default(list []*storagev1.StorageClass) *storagev1.StorageClass {
	var marked []*storagev1.StorageClass
	for _, c := range list {
		if c.Annotations[annotation] == "true" || c.Annotations[betaAnnotation] == "true" {
			marked = append(marked, c)
		}
	}
	if len(marked) == 0 {
		return nil
	}
	return slices.MinFunc(marked, func(a, b *storagev1.StorageClass) int {
		if c := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); c != 0 {
			return c
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}
