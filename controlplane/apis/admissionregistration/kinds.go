// SPDX-License-Identifier: Apache-2.0

// Package admissionregistration declares the kinds of the admissionregistration.k8s.io group (v1).
package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		validatingWebhookConfigurations().Resource(),
		mutatingWebhookConfigurations().Resource(),
		validatingAdmissionPolicies().Resource(),
		validatingAdmissionPolicyBindings().Resource(),
		mutatingAdmissionPolicies().Resource(),
		mutatingAdmissionPolicyBindings().Resource(),
	}
}

func validatingWebhookConfigurations() resource.Kind[*v1.ValidatingWebhookConfiguration] {
	return resource.Kind[*v1.ValidatingWebhookConfiguration]{
		GVR:                   group.WithResource("validatingwebhookconfigurations"),
		Kind:                  "ValidatingWebhookConfiguration",
		Categories:            []string{"api-extensions"},
		ClusterScoped:         true,
		New:                   func() *v1.ValidatingWebhookConfiguration { return &v1.ValidatingWebhookConfiguration{} },
		NewList:               func() runtime.Object { return &v1.ValidatingWebhookConfigurationList{} },
		ConditionalUpdateOnly: true,
		Default:               defaultValidatingWebhooks,
		Columns:               webhookColumns(func(c *v1.ValidatingWebhookConfiguration) int { return len(c.Webhooks) }),
		Validate:              validateValidatingWebhooks,
	}
}

func mutatingWebhookConfigurations() resource.Kind[*v1.MutatingWebhookConfiguration] {
	return resource.Kind[*v1.MutatingWebhookConfiguration]{
		GVR:                   group.WithResource("mutatingwebhookconfigurations"),
		Kind:                  "MutatingWebhookConfiguration",
		Categories:            []string{"api-extensions"},
		ClusterScoped:         true,
		New:                   func() *v1.MutatingWebhookConfiguration { return &v1.MutatingWebhookConfiguration{} },
		NewList:               func() runtime.Object { return &v1.MutatingWebhookConfigurationList{} },
		ConditionalUpdateOnly: true,
		Default:               defaultMutatingWebhooks,
		Columns:               webhookColumns(func(c *v1.MutatingWebhookConfiguration) int { return len(c.Webhooks) }),
		Validate:              validateMutatingWebhooks,
	}
}

func validatingAdmissionPolicies() resource.Kind[*v1.ValidatingAdmissionPolicy] {
	return resource.Kind[*v1.ValidatingAdmissionPolicy]{
		GVR:                   group.WithResource("validatingadmissionpolicies"),
		Kind:                  "ValidatingAdmissionPolicy",
		Categories:            []string{"api-extensions"},
		ClusterScoped:         true,
		New:                   func() *v1.ValidatingAdmissionPolicy { return &v1.ValidatingAdmissionPolicy{} },
		NewList:               func() runtime.Object { return &v1.ValidatingAdmissionPolicyList{} },
		HasStatus:             true,
		ConditionalUpdateOnly: true,
		Default:               defaultValidatingPolicy,
		Columns: policyColumns("Validations", func(p *v1.ValidatingAdmissionPolicy) int { return len(p.Spec.Validations) },
			func(p *v1.ValidatingAdmissionPolicy) *v1.ParamKind { return p.Spec.ParamKind }),
		Validate: validateValidatingPolicy,
	}
}

func validatingAdmissionPolicyBindings() resource.Kind[*v1.ValidatingAdmissionPolicyBinding] {
	return resource.Kind[*v1.ValidatingAdmissionPolicyBinding]{
		GVR:                   group.WithResource("validatingadmissionpolicybindings"),
		Kind:                  "ValidatingAdmissionPolicyBinding",
		Categories:            []string{"api-extensions"},
		ClusterScoped:         true,
		New:                   func() *v1.ValidatingAdmissionPolicyBinding { return &v1.ValidatingAdmissionPolicyBinding{} },
		NewList:               func() runtime.Object { return &v1.ValidatingAdmissionPolicyBindingList{} },
		ConditionalUpdateOnly: true,
		Default:               defaultValidatingBinding,
		Columns: bindingColumns(func(b *v1.ValidatingAdmissionPolicyBinding) string { return b.Spec.PolicyName },
			func(b *v1.ValidatingAdmissionPolicyBinding) *v1.ParamRef { return b.Spec.ParamRef }),
		Validate: validateValidatingBinding,
	}
}

func mutatingAdmissionPolicies() resource.Kind[*v1.MutatingAdmissionPolicy] {
	return resource.Kind[*v1.MutatingAdmissionPolicy]{
		GVR:                   group.WithResource("mutatingadmissionpolicies"),
		Kind:                  "MutatingAdmissionPolicy",
		Categories:            []string{"api-extensions"},
		ClusterScoped:         true,
		New:                   func() *v1.MutatingAdmissionPolicy { return &v1.MutatingAdmissionPolicy{} },
		NewList:               func() runtime.Object { return &v1.MutatingAdmissionPolicyList{} },
		ConditionalUpdateOnly: true,
		Default:               defaultMutatingPolicy,
		Columns: policyColumns("Mutations", func(p *v1.MutatingAdmissionPolicy) int { return len(p.Spec.Mutations) },
			func(p *v1.MutatingAdmissionPolicy) *v1.ParamKind { return p.Spec.ParamKind }),
		Validate: validateMutatingPolicy,
	}
}

func mutatingAdmissionPolicyBindings() resource.Kind[*v1.MutatingAdmissionPolicyBinding] {
	return resource.Kind[*v1.MutatingAdmissionPolicyBinding]{
		GVR:                   group.WithResource("mutatingadmissionpolicybindings"),
		Kind:                  "MutatingAdmissionPolicyBinding",
		Categories:            []string{"api-extensions"},
		ClusterScoped:         true,
		New:                   func() *v1.MutatingAdmissionPolicyBinding { return &v1.MutatingAdmissionPolicyBinding{} },
		NewList:               func() runtime.Object { return &v1.MutatingAdmissionPolicyBindingList{} },
		ConditionalUpdateOnly: true,
		Default:               defaultMutatingBinding,
		Columns: bindingColumns(func(b *v1.MutatingAdmissionPolicyBinding) string { return b.Spec.PolicyName },
			func(b *v1.MutatingAdmissionPolicyBinding) *v1.ParamRef { return b.Spec.ParamRef }),
		Validate: validateMutatingBinding,
	}
}
