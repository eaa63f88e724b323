// SPDX-License-Identifier: Apache-2.0

// Package podtopologylabels copies a node's zone and region labels to the pods bound to it, where the downward API can read them.
package podtopologylabels

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// PluginName is what the plugin is called in flags and configuration.
const PluginName = "PodTopologyLabels"

var copied = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion}

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	nodes corelisters.NodeLister
}

var (
	_ admission.MutationInterface                  = (*Plugin)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Plugin)(nil)
)

// New returns the plugin, to be initialised by its Set method.
func New() *Plugin { return &Plugin{Handler: admission.NewHandler(admission.Create)} }

func (p *Plugin) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	informer := f.Core().V1().Nodes()
	p.nodes = informer.Lister()
	p.SetReadyFunc(informer.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.nodes == nil {
		return fmt.Errorf("%s needs informers", PluginName)
	}
	return nil
}

// Admit works on pods that name their node, and on bindings, whose labels the API server puts on the pod.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil
	}
	switch o := a.GetObject().(type) {
	case *corev1.Pod:
		if a.GetSubresource() != "" || o.Spec.NodeName == "" {
			return nil
		}
		return p.copyTo(a, o.Spec.NodeName, &o.Labels)
	case *corev1.Binding:
		if a.GetSubresource() != "binding" || o.Target.Kind != "" && o.Target.Kind != "Node" {
			return nil
		}
		return p.copyTo(a, o.Target.Name, &o.Labels)
	}
	return nil
}

func (p *Plugin) copyTo(a admission.Attributes, nodeName string, to *map[string]string) error {
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("nodes are not read yet, try again"))
	}
	node, err := p.nodes.Get(nodeName)
	if apierrors.IsNotFound(err) {
		return nil // a static pod may come before its Node
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	for _, key := range copied {
		value, ok := node.Labels[key]
		if !ok {
			continue
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[key] = value
	}
	return nil
}
