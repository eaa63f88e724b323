// SPDX-License-Identifier: Apache-2.0

// Package podsecurity runs the library's Pod Security Standards (privileged, baseline, restricted) as an admission plugin: namespaces
// choose a level by the labels pod-security.kubernetes.io/enforce, audit and warn.
package podsecurity

import (
	"context"
	"fmt"
	"io"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	podsecurityadmission "k8s.io/pod-security-admission/admission"
	podsecurityload "k8s.io/pod-security-admission/admission/api/load"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// PluginName is what the plugin is called in flags and configuration.
const PluginName = "PodSecurity"

// Register makes the plugin known. Its configuration is a PodSecurityConfiguration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(r io.Reader) (admission.Interface, error) { return New(r) })
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	delegate *podsecurityadmission.Admission
	client   kubernetes.Interface
	factory  informers.SharedInformerFactory
}

var (
	_ admission.ValidationInterface                = (*Plugin)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*Plugin)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Plugin)(nil)
)

// recorder is one for the process, because metrics can be registered once.
var recorder = sync.OnceValue(func() metrics.Recorder {
	r := metrics.NewPrometheusRecorder(podsecurityapi.GetAPIVersion())
	r.MustRegister(legacyregistry.MustRegister)
	return r
})

// New returns the plugin with the configuration read from r, the default (everything is privileged until a namespace says otherwise) when
// r is nil.
func New(r io.Reader) (*Plugin, error) {
	config, err := podsecurityload.LoadFromReader(r)
	if err != nil {
		return nil, err
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, err
	}
	return &Plugin{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		delegate: &podsecurityadmission.Admission{Configuration: config, Evaluator: evaluator, Metrics: recorder(),
			PodSpecExtractor: podsecurityadmission.DefaultPodSpecExtractor{}},
	}, nil
}

func (p *Plugin) SetExternalKubeClientSet(c kubernetes.Interface) {
	p.client = c
	p.complete()
}

func (p *Plugin) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	p.factory = f
	namespaces, pods := f.Core().V1().Namespaces().Informer(), f.Core().V1().Pods().Informer()
	p.SetReadyFunc(func() bool { return namespaces.HasSynced() && pods.HasSynced() })
	p.complete()
}

func (p *Plugin) complete() {
	if p.client == nil || p.factory == nil {
		return
	}
	p.delegate.NamespaceGetter = podsecurityadmission.NamespaceGetterFromListerAndClient(p.factory.Core().V1().Namespaces().Lister(), p.client)
	p.delegate.PodLister = podsecurityadmission.PodListerFromInformer(p.factory.Core().V1().Pods().Lister())
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.client == nil || p.factory == nil {
		return fmt.Errorf("%s needs a client and informers", PluginName)
	}
	if err := p.delegate.CompleteConfiguration(); err != nil {
		return fmt.Errorf("%s: %w", PluginName, err)
	}
	if err := p.delegate.ValidateConfiguration(); err != nil {
		return fmt.Errorf("%s: %w", PluginName, err)
	}
	return nil
}

var namespaces = corev1.Resource("namespaces")

// Validate asks the standards.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if gr != namespaces && !p.delegate.PodSpecExtractor.HasPodSpec(gr) {
		return nil
	}
	// Subresources whose body is no pod (exec, binding, ...) are passed over by the library; scale is not a pod template at all.
	if a.GetSubresource() != "" && gr != corev1.Resource("pods") {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("namespaces and pods are not read yet, try again"))
	}
	result := p.delegate.Validate(ctx, attributes{a})
	for _, w := range result.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for k, v := range result.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podsecurityapi.AuditAnnotationPrefix+k, v)
	}
	if result.Allowed {
		return nil
	}
	err := admission.NewForbidden(a, fmt.Errorf("denied"))
	if status, ok := err.(apierrors.APIStatus); ok && result.Result != nil {
		s := status.Status()
		if result.Result.Message != "" {
			s.Message = result.Result.Message // names the object already
		}
		if result.Result.Reason != "" {
			s.Reason = result.Result.Reason
		}
		if result.Result.Code != 0 {
			s.Code = result.Result.Code
		}
		if result.Result.Details != nil {
			s.Details = result.Result.Details
		}
		return &apierrors.StatusError{ErrStatus: s}
	}
	return err
}

// attributes shows a request to the library.
type attributes struct{ admission.Attributes }

func (a attributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}
func (a attributes) GetObject() (runtime.Object, error)    { return a.Attributes.GetObject(), nil }
func (a attributes) GetOldObject() (runtime.Object, error) { return a.Attributes.GetOldObject(), nil }
func (a attributes) GetUserName() string                   { return a.GetUserInfo().GetName() }

var _ podsecurityapi.Attributes = attributes{}
