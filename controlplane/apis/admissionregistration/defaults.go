// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func or[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func defaultValidatingWebhooks(c *v1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		or(&w.FailurePolicy, v1.Fail)
		or(&w.MatchPolicy, v1.Equivalent)
		or(&w.NamespaceSelector, metav1.LabelSelector{})
		or(&w.ObjectSelector, metav1.LabelSelector{})
		or(&w.TimeoutSeconds, 10)
		defaultClient(&w.ClientConfig)
		defaultRules(w.Rules)
	}
}

func defaultMutatingWebhooks(c *v1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		or(&w.FailurePolicy, v1.Fail)
		or(&w.MatchPolicy, v1.Equivalent)
		or(&w.NamespaceSelector, metav1.LabelSelector{})
		or(&w.ObjectSelector, metav1.LabelSelector{})
		or(&w.TimeoutSeconds, 10)
		or(&w.ReinvocationPolicy, v1.NeverReinvocationPolicy)
		defaultClient(&w.ClientConfig)
		defaultRules(w.Rules)
	}
}

func defaultClient(c *v1.WebhookClientConfig) {
	if c.Service != nil {
		or(&c.Service.Port, 443)
	}
}

func defaultRules(rules []v1.RuleWithOperations) {
	for i := range rules {
		or(&rules[i].Scope, v1.AllScopes)
	}
}

func defaultValidatingPolicy(p *v1.ValidatingAdmissionPolicy) {
	or(&p.Spec.FailurePolicy, v1.Fail)
	defaultMatch(p.Spec.MatchConstraints)
}

func defaultValidatingBinding(b *v1.ValidatingAdmissionPolicyBinding) {
	defaultMatch(b.Spec.MatchResources)
	defaultParam(b.Spec.ParamRef)
}

func defaultMutatingPolicy(p *v1.MutatingAdmissionPolicy) {
	or(&p.Spec.FailurePolicy, v1.Fail)
	defaultMatch(p.Spec.MatchConstraints)
}

func defaultMutatingBinding(b *v1.MutatingAdmissionPolicyBinding) {
	defaultMatch(b.Spec.MatchResources)
	defaultParam(b.Spec.ParamRef)
}

func defaultParam(r *v1.ParamRef) {
	if r != nil {
		or(&r.ParameterNotFoundAction, v1.DenyAction)
	}
}

func defaultMatch(m *v1.MatchResources) {
	if m == nil {
		return
	}
	or(&m.MatchPolicy, v1.Equivalent)
	or(&m.NamespaceSelector, metav1.LabelSelector{})
	or(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]v1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			or(&rules[i].Scope, v1.AllScopes)
		}
	}
}
