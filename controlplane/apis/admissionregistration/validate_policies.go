// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"context"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }

func validateValidatingPolicy(_ context.Context, p *v1.ValidatingAdmissionPolicy) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &p.Spec
	rule.OneOfOptional(r, path.Child("failurePolicy"), s.FailurePolicy, v1.Fail, v1.Ignore)
	paramKind(r, path.Child("paramKind"), s.ParamKind)
	constraints(r, path.Child("matchConstraints"), s.MatchConstraints)
	c := newCompiler(s.ParamKind, true)
	variables(r, path.Child("variables"), s.Variables, c)
	matchConditions(r, path.Child("matchConditions"), s.MatchConditions, c)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		r.Required(path.Child("validations"), false, "validations or auditAnnotations must be specified")
		r.Required(path.Child("auditAnnotations"), false, "validations or auditAnnotations must be specified")
	}
	for i, v := range s.Validations {
		policyValidation(r, path.Child("validations").Index(i), v, c)
	}
	if n := len(s.AuditAnnotations); n > 20 {
		r.Add(field.TooMany(path.Child("auditAnnotations"), n, 20))
	}
	keys := map[string]bool{}
	for i, a := range s.AuditAnnotations {
		at := path.Child("auditAnnotations").Index(i)
		if r.Required(at.Child("key"), a.Key != "", "") {
			r.Invalid(at.Child("key"), a.Key, validation.IsQualifiedName(p.Name+"/"+a.Key)...)
			if keys[a.Key] {
				r.Add(field.Duplicate(at.Child("key"), a.Key))
			}
			keys[a.Key] = true
		}
		at = at.Child("valueExpression")
		if r.Required(at, strings.TrimSpace(a.ValueExpression) != "", "") {
			if len(a.ValueExpression) > 5*1024 {
				r.Add(field.TooLong(at, a.ValueExpression, 5*1024))
			}
			c.check(r, at, a.ValueExpression, &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}, true, false)
		}
	}
	return r.Errors()
}

func policyValidation(r *rule.Report, at *field.Path, v v1.Validation, c *compiler) {
	if r.Required(at.Child("expression"), strings.TrimSpace(v.Expression) != "", "expression is not specified") {
		c.check(r, at.Child("expression"), v.Expression, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason}, true, false)
	}
	if v.MessageExpression != "" {
		at := at.Child("messageExpression")
		if r.Required(at, strings.TrimSpace(v.MessageExpression) != "", "must be non-empty if specified") {
			c.check(r, at, v.MessageExpression, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, false, false)
		}
	}
	if v.Message != "" {
		switch {
		case strings.TrimSpace(v.Message) == "":
			r.Invalid(at.Child("message"), v.Message, "message must be non-empty if specified")
		case strings.Contains(strings.TrimSpace(v.Message), "\n"):
			r.Invalid(at.Child("message"), v.Message, "message must not contain line breaks")
		}
	} else if strings.Contains(strings.TrimSpace(v.Expression), "\n") && v.MessageExpression == "" {
		r.Required(at.Child("message"), false, "message must be specified if expression contains line breaks")
	}
	rule.OneOfOptional(r, at.Child("reason"), v.Reason, metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge,
		metav1.StatusReasonUnauthorized)
}

func validateMutatingPolicy(_ context.Context, p *v1.MutatingAdmissionPolicy) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &p.Spec
	rule.OneOfOptional(r, path.Child("failurePolicy"), s.FailurePolicy, v1.Fail, v1.Ignore)
	paramKind(r, path.Child("paramKind"), s.ParamKind)
	constraints(r, path.Child("matchConstraints"), s.MatchConstraints)
	c := newCompiler(s.ParamKind, true)
	variables(r, path.Child("variables"), s.Variables, c)
	matchConditions(r, path.Child("matchConditions"), s.MatchConditions, c)
	r.Required(path.Child("mutations"), len(s.Mutations) > 0, "mutations must contain at least one item")
	for i, m := range s.Mutations {
		at := path.Child("mutations").Index(i)
		rule.OneOf(r, at.Child("patchType"), m.PatchType, v1.PatchTypeApplyConfiguration, v1.PatchTypeJSONPatch)
		r.Forbidden(at.Child("applyConfiguration"), m.PatchType == v1.PatchTypeJSONPatch && m.ApplyConfiguration != nil,
			"must not be specified when patchType is JSONPatch")
		r.Forbidden(at.Child("jsonPatch"), m.PatchType == v1.PatchTypeApplyConfiguration && m.JSONPatch != nil,
			"must not be specified when patchType is ApplyConfiguration")
		switch m.PatchType {
		case v1.PatchTypeApplyConfiguration:
			at := at.Child("applyConfiguration")
			if r.Required(at, m.ApplyConfiguration != nil, "") && r.Required(at.Child("expression"), m.ApplyConfiguration.Expression != "", "") {
				c.check(r, at.Child("expression"), m.ApplyConfiguration.Expression, &patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression},
					true, true)
			}
		case v1.PatchTypeJSONPatch:
			at := at.Child("jsonPatch")
			if r.Required(at, m.JSONPatch != nil, "") && r.Required(at.Child("expression"), m.JSONPatch.Expression != "", "") {
				c.check(r, at.Child("expression"), m.JSONPatch.Expression, &patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}, true, true)
			}
		}
	}
	rule.OneOf(r, path.Child("reinvocationPolicy"), s.ReinvocationPolicy, v1.NeverReinvocationPolicy, v1.IfNeededReinvocationPolicy)
	return r.Errors()
}

func paramKind(r *rule.Report, at *field.Path, k *v1.ParamKind) {
	if k == nil {
		return
	}
	if r.Required(at.Child("apiVersion"), k.APIVersion != "", "") {
		gv, err := schema.ParseGroupVersion(k.APIVersion)
		if err != nil {
			r.Invalid(at.Child("apiVersion"), k.APIVersion, err.Error())
		} else {
			if gv.Group != "" {
				r.Invalid(at.Child("apiVersion"), gv.Group, validation.IsDNS1123Subdomain(gv.Group)...)
			}
			r.Invalid(at.Child("apiVersion"), gv.Version, validation.IsDNS1035Label(gv.Version)...)
		}
	}
	r.Name(at.Child("kind"), k.Kind, func(s string) []string { return validation.IsDNS1035Label(strings.ToLower(s)) })
}

func constraints(r *rule.Report, at *field.Path, m *v1.MatchResources) {
	if !r.Required(at, m != nil, "") {
		return
	}
	r.Required(at.Child("resourceRules"), len(m.ResourceRules) > 0, "")
	matchResources(r, at, m)
}

func matchResources(r *rule.Report, at *field.Path, m *v1.MatchResources) {
	if at2 := at.Child("matchPolicy"); r.Required(at2, m.MatchPolicy != nil, "") {
		rule.OneOf(r, at2, *m.MatchPolicy, v1.Exact, v1.Equivalent)
	}
	if r.Required(at.Child("namespaceSelector"), m.NamespaceSelector != nil, "") {
		r.Selector(at.Child("namespaceSelector"), m.NamespaceSelector)
	}
	if r.Required(at.Child("objectSelector"), m.ObjectSelector != nil, "") {
		r.Selector(at.Child("objectSelector"), m.ObjectSelector)
	}
	for _, l := range []struct {
		name  string
		rules []v1.NamedRuleWithOperations
	}{{"resourceRules", m.ResourceRules}, {"excludeResourceRules", m.ExcludeResourceRules}} {
		for i := range l.rules {
			at := at.Child(l.name).Index(i)
			ruleWithOperations(r, at, &l.rules[i].RuleWithOperations, true)
			seen := map[string]bool{}
			for j, n := range l.rules[i].ResourceNames {
				at := at.Child("resourceNames").Index(j)
				if seen[n] {
					r.Add(field.Duplicate(at, n))
				}
				seen[n] = true
			}
		}
	}
}

func validateValidatingBinding(_ context.Context, b *v1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &b.Spec
	binding(r, path, s.PolicyName, s.ParamRef, s.MatchResources)
	at := path.Child("validationActions")
	if !r.Required(at, len(s.ValidationActions) > 0, "at least one validation action is required") {
		return r.Errors()
	}
	seen := map[v1.ValidationAction]bool{}
	for i, a := range s.ValidationActions {
		rule.OneOf(r, at.Index(i), a, v1.Deny, v1.Warn, v1.Audit)
		if seen[a] {
			r.Add(field.Duplicate(at.Index(i), a))
		}
		seen[a] = true
	}
	if seen[v1.Deny] && seen[v1.Warn] {
		r.Invalid(at, s.ValidationActions, "must not contain both Deny and Warn: the refusal already says what the warning would")
	}
	return r.Errors()
}

func validateMutatingBinding(_ context.Context, b *v1.MutatingAdmissionPolicyBinding) field.ErrorList {
	r := &rule.Report{}
	binding(r, field.NewPath("spec"), b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	return r.Errors()
}

func binding(r *rule.Report, path *field.Path, policy string, ref *v1.ParamRef, m *v1.MatchResources) {
	r.Name(path.Child("policyName"), policy, subdomain)
	if ref != nil {
		at := path.Child("paramRef")
		switch {
		case ref.Name != "":
			r.Invalid(at.Child("name"), ref.Name, subdomain(ref.Name)...)
			r.Forbidden(at.Child("name"), ref.Selector != nil, "name and selector are mutually exclusive")
		case ref.Selector == nil:
			r.Required(at, false, "one of name or selector must be specified")
		}
		r.Selector(at.Child("selector"), ref.Selector)
		r.Optional(at.Child("namespace"), ref.Namespace, validation.IsDNS1123Label)
		if at := at.Child("parameterNotFoundAction"); r.Required(at, ref.ParameterNotFoundAction != nil, "") {
			rule.OneOf(r, at, *ref.ParameterNotFoundAction, v1.AllowAction, v1.DenyAction)
		}
	}
	if m != nil {
		matchResources(r, path.Child("matchResources"), m)
	}
}

func variables(r *rule.Report, path *field.Path, list []v1.Variable, c *compiler) {
	names := map[string]bool{}
	for i, v := range list {
		at := path.Index(i)
		if r.Required(at.Child("name"), v.Name != "", "") {
			if !identifier(v.Name) {
				r.Invalid(at.Child("name"), v.Name, "name is not a valid CEL identifier")
			}
			if names[v.Name] {
				r.Add(field.Duplicate(at.Child("name"), v.Name))
			}
			names[v.Name] = true
		}
		if r.Required(at.Child("expression"), strings.TrimSpace(v.Expression) != "", "expression is not specified") {
			c.variable(r, at.Child("expression"), v)
		}
	}
}

func matchConditions(r *rule.Report, path *field.Path, list []v1.MatchCondition, c *compiler) {
	if n := len(list); n > maxConditions {
		r.Add(field.TooMany(path, n, maxConditions))
		return
	}
	names := map[string]bool{}
	for i, m := range list {
		at := path.Index(i)
		if r.Required(at.Child("name"), m.Name != "", "") {
			r.Invalid(at.Child("name"), m.Name, validation.IsQualifiedName(m.Name)...)
			if names[m.Name] {
				r.Add(field.Duplicate(at.Child("name"), m.Name))
			}
			names[m.Name] = true
		}
		if r.Required(at.Child("expression"), strings.TrimSpace(m.Expression) != "", "") {
			c.condition(r, at.Child("expression"), m)
		}
	}
}
