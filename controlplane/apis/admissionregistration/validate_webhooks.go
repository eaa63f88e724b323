// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"
	"slices"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// maxConditions is how many match conditions a webhook or a policy can have.
const maxConditions = 64

func validateValidatingWebhooks(_ context.Context, c *v1.ValidatingWebhookConfiguration) field.ErrorList {
	r := &rule.Report{}
	names := map[string]bool{}
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		hook(r, field.NewPath("webhooks").Index(i), names, anyWebhook{
			w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector, w.SideEffects, w.TimeoutSeconds,
			w.AdmissionReviewVersions, w.MatchConditions,
		})
	}
	return r.Errors()
}

func validateMutatingWebhooks(_ context.Context, c *v1.MutatingWebhookConfiguration) field.ErrorList {
	r := &rule.Report{}
	names := map[string]bool{}
	for i := range c.Webhooks {
		w, at := &c.Webhooks[i], field.NewPath("webhooks").Index(i)
		hook(r, at, names, anyWebhook{
			w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector, w.SideEffects, w.TimeoutSeconds,
			w.AdmissionReviewVersions, w.MatchConditions,
		})
		rule.OneOfOptional(r, at.Child("reinvocationPolicy"), w.ReinvocationPolicy, v1.NeverReinvocationPolicy, v1.IfNeededReinvocationPolicy)
	}
	return r.Errors()
}

// anyWebhook is what validating and mutating webhooks have in common.
type anyWebhook struct {
	name        string
	client      v1.WebhookClientConfig
	rules       []v1.RuleWithOperations
	failure     *v1.FailurePolicyType
	match       *v1.MatchPolicyType
	namespaces  *metav1.LabelSelector
	objects     *metav1.LabelSelector
	sideEffects *v1.SideEffectClass
	timeout     *int32
	versions    []string
	conditions  []v1.MatchCondition
}

func hook(r *rule.Report, at *field.Path, names map[string]bool, w anyWebhook) {
	r.Add(validation.IsFullyQualifiedName(at.Child("name"), w.name)...)
	if names[w.name] {
		r.Add(field.Duplicate(at.Child("name"), w.name))
	}
	names[w.name] = true
	if r.Required(at.Child("admissionReviewVersions"), len(w.versions) > 0, "must specify one of v1, v1beta1") {
		known := false
		for i, v := range w.versions {
			r.Invalid(at.Child("admissionReviewVersions").Index(i), v, validation.IsDNS1035Label(v)...)
			if slices.Contains(w.versions[:i], v) {
				r.Invalid(at.Child("admissionReviewVersions").Index(i), v, "duplicate version")
			}
			known = known || v == "v1" || v == "v1beta1"
		}
		if !known {
			r.Invalid(at.Child("admissionReviewVersions"), w.versions, "must include at least one of v1, v1beta1")
		}
	}
	for i := range w.rules {
		ruleWithOperations(r, at.Child("rules").Index(i), &w.rules[i], true)
	}
	rule.OneOfOptional(r, at.Child("failurePolicy"), w.failure, v1.Ignore, v1.Fail)
	rule.OneOfOptional(r, at.Child("matchPolicy"), w.match, v1.Exact, v1.Equivalent)
	if r.Required(at.Child("sideEffects"), w.sideEffects != nil, "must specify one of None, NoneOnDryRun") {
		rule.OneOf(r, at.Child("sideEffects"), *w.sideEffects, v1.SideEffectClassNone, v1.SideEffectClassNoneOnDryRun)
	}
	if w.timeout != nil {
		r.Between(at.Child("timeoutSeconds"), int64(*w.timeout), 1, 30)
	}
	r.Selector(at.Child("namespaceSelector"), w.namespaces)
	r.Selector(at.Child("objectSelector"), w.objects)
	client(r, at.Child("clientConfig"), w.client)
	matchConditions(r, at.Child("matchConditions"), w.conditions, newCompiler(nil, false))
}

func client(r *rule.Report, at *field.Path, c v1.WebhookClientConfig) {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		r.Required(at, false, "exactly one of url or service is required")
	case c.URL != nil:
		r.Add(webhook.ValidateWebhookURL(at.Child("url"), *c.URL, true)...)
	default:
		port := int32(443)
		if c.Service.Port != nil {
			port = *c.Service.Port
		}
		r.Add(webhook.ValidateWebhookService(at.Child("service"), c.Service.Namespace, c.Service.Name, c.Service.Path, port)...)
	}
	if len(c.CABundle) > 0 {
		r.Add(webhook.ValidateCABundle(at.Child("caBundle"), c.CABundle)...)
	}
}

// ruleWithOperations reports rules that match nothing, or say "all" and more beside it. Webhooks may be told of connections, policies too.
func ruleWithOperations(r *rule.Report, at *field.Path, x *v1.RuleWithOperations, subresources bool) {
	ops := at.Child("operations")
	r.Required(ops, len(x.Operations) > 0, "")
	if len(x.Operations) > 1 && slices.Contains(x.Operations, v1.OperationAll) {
		r.Invalid(ops, x.Operations, "if '*' is present, must not specify other operations")
	}
	for i, op := range x.Operations {
		rule.OneOf(r, ops.Index(i), op, v1.OperationAll, v1.Create, v1.Update, v1.Delete, v1.Connect)
	}
	for _, l := range []struct {
		name   string
		values []string
		empty  bool // whether "" is a value: the core group
	}{{"apiGroups", x.APIGroups, true}, {"apiVersions", x.APIVersions, false}} {
		at := at.Child(l.name)
		r.Required(at, len(l.values) > 0, "")
		if len(l.values) > 1 && slices.Contains(l.values, "*") {
			r.Invalid(at, l.values, "if '*' is present, must not specify other "+l.name)
		}
		for i, v := range l.values {
			r.Required(at.Index(i), v != "" || l.empty, "")
		}
	}
	rule.OneOfOptional(r, at.Child("scope"), x.Scope, v1.ClusterScope, v1.NamespacedScope, v1.AllScopes)
	resources(r, at.Child("resources"), x.Resources, subresources)
}

func resources(r *rule.Report, at *field.Path, list []string, subresources bool) {
	r.Required(at, len(list) > 0, "")
	all := map[string]bool{} // resources of which every subresource is named, "" for every resource
	single := false
	for i, name := range list {
		if !r.Required(at.Index(i), name != "", "") {
			continue
		}
		if name == "*/*" || name == "*" {
			single = single || name == "*/*"
		}
		resource, sub, has := strings.Cut(name, "/")
		if has && !subresources {
			r.Invalid(at.Index(i), name, "must not contain subresources")
		}
		if strings.Contains(sub, "/") || has && (resource == "" || sub == "") {
			r.Invalid(at.Index(i), name, "must be of the form resource or resource/subresource")
		}
		if has && all[resource+"/*"] {
			r.Invalid(at.Index(i), name, "if '"+resource+"/*' is present, must not specify "+name)
		}
		if has && all["*/"+sub] {
			r.Invalid(at.Index(i), name, "if '*/"+sub+"' is present, must not specify "+name)
		}
		all[name] = true
	}
	if single && len(list) > 1 {
		r.Invalid(at, list, "if '*/*' is present, must not specify other resources")
	}
	if all["*"] && slices.ContainsFunc(list, func(s string) bool { return s != "*" && !strings.Contains(s, "/") }) {
		r.Invalid(at, list, "if '*' is present, must not specify other resources without subresources")
	}
}
