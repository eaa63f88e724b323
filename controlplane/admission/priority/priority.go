// SPDX-License-Identifier: Apache-2.0

// Package priority is admission by PriorityClass: it turns a pod's priorityClassName into its priority and preemption policy, and keeps
// at most one class the global default.
package priority

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
)

// PluginName is what the plugin is called in flags and configuration.
const PluginName = "Priority"

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	client  kubernetes.Interface
	classes schedulinglisters.PriorityClassLister
}

var (
	_ admission.MutationInterface                  = (*Plugin)(nil)
	_ admission.ValidationInterface                = (*Plugin)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*Plugin)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Plugin)(nil)
)

// New returns the plugin, to be initialised by its Set methods.
func New() *Plugin {
	return &Plugin{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete)}
}

func (p *Plugin) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }
func (p *Plugin) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	informer := f.Scheduling().V1().PriorityClasses()
	p.classes = informer.Lister()
	p.SetReadyFunc(informer.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.client == nil || p.classes == nil {
		return fmt.Errorf("%s needs a client and informers", PluginName)
	}
	return nil
}

// Admit sets the priority of a pod.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil
	}
	if a.GetOperation() == admission.Update {
		// Clients that do not know the fields send them empty: they cannot change, so they stay.
		if old, ok := a.GetOldObject().(*corev1.Pod); ok {
			if pod.Spec.Priority == nil {
				pod.Spec.Priority = old.Spec.Priority
			}
			if pod.Spec.PreemptionPolicy == nil {
				pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
			}
		}
		return nil
	}
	if a.GetOperation() != admission.Create {
		return nil
	}
	return p.resolve(ctx, a, pod)
}

func (p *Plugin) resolve(ctx context.Context, a admission.Attributes, pod *corev1.Pod) error {
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("priority classes are not read yet, try again"))
	}
	priority, policy := int32(0), corev1.PreemptLowerPriority
	if pod.Spec.PriorityClassName == "" {
		class, err := p.globalDefault()
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("failed to get default priority class: %w", err))
		}
		if class != nil {
			pod.Spec.PriorityClassName = class.Name
			priority, policy = values(class)
		}
	} else {
		name := pod.Spec.PriorityClassName
		class, err := p.classes.Get(name)
		if apierrors.IsNotFound(err) {
			class, err = p.client.SchedulingV1().PriorityClasses().Get(ctx, name, metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			return admission.NewForbidden(a, fmt.Errorf("no PriorityClass with name %v was found", name))
		}
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("failed to get PriorityClass with name %s: %w", name, err))
		}
		priority, policy = values(class)
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != priority {
		return admission.NewForbidden(a, fmt.Errorf("spec.priority is %d, but the pod's priority class makes it %d: leave the field out", *pod.Spec.Priority, priority))
	}
	pod.Spec.Priority = &priority
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return admission.NewForbidden(a, fmt.Errorf("spec.preemptionPolicy is %s, but the pod's priority class makes it %s: leave the field out",
			*pod.Spec.PreemptionPolicy, policy))
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

func values(c *schedulingv1.PriorityClass) (int32, corev1.PreemptionPolicy) {
	if c.PreemptionPolicy != nil {
		return c.Value, *c.PreemptionPolicy
	}
	return c.Value, corev1.PreemptLowerPriority
}

// globalDefault returns the default class, nil when there is none. Should two exist (made at the same moment), the lower one counts.
func (p *Plugin) globalDefault() (*schedulingv1.PriorityClass, error) {
	list, err := p.classes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var found *schedulingv1.PriorityClass
	for _, c := range list {
		if c.GlobalDefault && (found == nil || c.Value < found.Value) {
			found = c
		}
	}
	return found, nil
}

// Validate refuses a second global default.
func (p *Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	class, ok := a.GetObject().(*schedulingv1.PriorityClass)
	if !ok || a.GetResource().GroupResource() != schedulingv1.Resource("priorityclasses") || a.GetSubresource() != "" || !class.GlobalDefault {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("priority classes are not read yet, try again"))
	}
	present, err := p.globalDefault()
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to get default priority class: %w", err))
	}
	if present != nil && (a.GetOperation() == admission.Create || present.Name != class.Name) {
		return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", present.Name))
	}
	return nil
}
