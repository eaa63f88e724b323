// SPDX-License-Identifier: Apache-2.0

// Package alwayspullimages (off by default) makes every container pull its image, so that a private image on a node serves only pods
// with the credentials for it.
package alwayspullimages

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// PluginName is what the plugin is called in flags and configuration.
const PluginName = "AlwaysPullImages"

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct{ *admission.Handler }

var (
	_ admission.MutationInterface   = (*Plugin)(nil)
	_ admission.ValidationInterface = (*Plugin)(nil)
)

// New returns the plugin.
func New() *Plugin { return &Plugin{admission.NewHandler(admission.Create, admission.Update)} }

// Admit sets the pull policy.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	each(a, func(_ string, policy *corev1.PullPolicy) { *policy = corev1.PullAlways })
	return nil
}

// Validate refuses what a later plugin changed back.
func (p *Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) (err error) {
	each(a, func(name string, policy *corev1.PullPolicy) {
		if *policy != corev1.PullAlways {
			err = admission.NewForbidden(a, fmt.Errorf("container %s: imagePullPolicy must be Always", name))
		}
	})
	return err
}

// each calls f for every container whose image the request may bring in.
func each(a admission.Attributes, f func(name string, policy *corev1.PullPolicy)) {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" && a.GetSubresource() != "ephemeralcontainers" {
		return
	}
	for i := range pod.Spec.InitContainers {
		f(pod.Spec.InitContainers[i].Name, &pod.Spec.InitContainers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.Containers {
		f(pod.Spec.Containers[i].Name, &pod.Spec.Containers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.EphemeralContainers {
		f(pod.Spec.EphemeralContainers[i].Name, &pod.Spec.EphemeralContainers[i].ImagePullPolicy)
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Image != nil {
			f(v.Name, &v.Image.PullPolicy)
		}
	}
}
