// SPDX-License-Identifier: Apache-2.0

package review

import (
	"context"
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func (c Config) reviewAccess(ctx context.Context, r *authorizationv1.SubjectAccessReview) error {
	if errs := validateSubject(r.Spec); len(errs) > 0 {
		return invalid("SubjectAccessReview", errs)
	}
	attributes, err := attributesOf(subject(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	r.Status = c.decide(ctx, attributes, err)
	return nil
}

func (c Config) reviewLocalAccess(ctx context.Context, r *authorizationv1.LocalSubjectAccessReview) error {
	errs := validateSubject(r.Spec)
	ns := request.NamespaceValue(ctx)
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != ns {
		errs = append(errs, field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace: "+ns))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "nonResourceAttributes"), "disallowed on this kind of request"))
	}
	if len(errs) > 0 {
		return invalid("LocalSubjectAccessReview", errs)
	}
	attributes, err := attributesOf(subject(r.Spec), r.Spec.ResourceAttributes, nil)
	r.Status = c.decide(ctx, attributes, err)
	return nil
}

func (c Config) reviewSelfAccess(ctx context.Context, r *authorizationv1.SelfSubjectAccessReview) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	if errs := validateTarget(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes); len(errs) > 0 {
		return invalid("SelfSubjectAccessReview", errs)
	}
	attributes, err := attributesOf(u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	r.Status = c.decide(ctx, attributes, err)
	return nil
}

func (c Config) reviewSelfRules(ctx context.Context, r *authorizationv1.SelfSubjectRulesReview) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	if r.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	if c.Rules == nil {
		r.Status.Incomplete = true
		return nil
	}
	resources, paths, incomplete, err := c.Rules.RulesFor(ctx, u, r.Spec.Namespace)
	r.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete,
	}
	for _, rule := range resources {
		r.Status.ResourceRules = append(r.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames()})
	}
	for _, rule := range paths {
		r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()})
	}
	if err != nil {
		r.Status.EvaluationError = err.Error()
	}
	return nil
}

func (c Config) decide(ctx context.Context, a authorizer.AttributesRecord, parseErr error) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := c.Authorizer.Authorize(ctx, a)
	status := authorizationv1.SubjectAccessReviewStatus{Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason}
	if err = errors.Join(parseErr, err); err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func subject(spec authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, Groups: spec.Groups, UID: spec.UID}
	for k, v := range spec.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

func attributesOf(u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) (authorizer.AttributesRecord, error) {
	if r == nil {
		return authorizer.AttributesRecord{User: u, Verb: n.Verb, Path: n.Path}, nil
	}
	a := authorizer.AttributesRecord{User: u, Verb: r.Verb, Namespace: r.Namespace, APIGroup: r.Group, APIVersion: r.Version, Resource: r.Resource,
		Subresource: r.Subresource, Name: r.Name, ResourceRequest: true}
	if a.APIVersion == "" {
		a.APIVersion = "*"
	}
	var errs []error
	if s := r.LabelSelector; s != nil {
		switch {
		case s.RawSelector != "":
			selector, err := labels.Parse(s.RawSelector)
			if err != nil {
				errs = append(errs, err)
			} else {
				a.LabelSelectorRequirements, _ = selector.Requirements()
			}
		default:
			selector, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: s.Requirements})
			if err != nil {
				errs = append(errs, err)
			} else {
				a.LabelSelectorRequirements, _ = selector.Requirements()
			}
		}
	}
	if s := r.FieldSelector; s != nil {
		if s.RawSelector != "" {
			selector, err := fields.ParseSelector(s.RawSelector)
			if err != nil {
				errs = append(errs, err)
			} else {
				a.FieldSelectorRequirements = selector.Requirements()
			}
		} else {
			requirements, err := fieldRequirements(s.Requirements)
			if err != nil {
				errs = append(errs, err)
			}
			a.FieldSelectorRequirements = requirements
		}
	}
	return a, errors.Join(errs...)
}

func validateSubject(spec authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateTarget(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateTarget(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	switch {
	case r != nil && n != nil:
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), n, "cannot be specified in combination with resourceAttributes"))
	case r == nil && n == nil:
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes"), nil, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if r == nil {
		return errs
	}
	path := spec.Child("resourceAttributes")
	if s := r.FieldSelector; s != nil {
		errs = append(errs, validateSelector(path.Child("fieldSelector"), s.RawSelector, len(s.Requirements))...)
		for i, q := range s.Requirements {
			errs = append(errs, validateRequirement(path.Child("fieldSelector", "requirements").Index(i), q.Key, string(q.Operator), len(q.Values))...)
		}
	}
	if s := r.LabelSelector; s != nil {
		errs = append(errs, validateSelector(path.Child("labelSelector"), s.RawSelector, len(s.Requirements))...)
		for i, q := range s.Requirements {
			errs = append(errs, validateRequirement(path.Child("labelSelector", "requirements").Index(i), q.Key, string(q.Operator), len(q.Values))...)
		}
	}
	return errs
}

func validateSelector(path *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), "when "+path.String()+" is specified, requirements or rawSelector is required")}
	}
	return nil
}

func validateRequirement(path *field.Path, key, operator string, values int) field.ErrorList {
	var errs field.ErrorList
	if key == "" {
		errs = append(errs, field.Required(path.Child("key"), "must be specified"))
	}
	switch operator {
	case "In", "NotIn":
		if values == 0 {
			errs = append(errs, field.Required(path.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case "Exists", "DoesNotExist":
		if values > 0 {
			errs = append(errs, field.Forbidden(path.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	}
	return errs
}

func invalid(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName, Kind: kind}, "", errs)
}

// fieldRequirements keeps what a field selector can say: one value, equal or not. Others are left out, which can only widen the question; the
// error tells the caller.
func fieldRequirements(in []metav1.FieldSelectorRequirement) (fields.Requirements, error) {
	var out fields.Requirements
	var errs []error
	for _, q := range in {
		switch {
		case q.Operator == metav1.FieldSelectorOpIn && len(q.Values) == 1:
			out = append(out, fields.Requirement{Operator: "=", Field: q.Key, Value: q.Values[0]})
		case q.Operator == metav1.FieldSelectorOpNotIn && len(q.Values) == 1:
			out = append(out, fields.Requirement{Operator: "!=", Field: q.Key, Value: q.Values[0]})
		default:
			errs = append(errs, errors.New("field selector requirement on "+q.Key+" with operator "+string(q.Operator)+" is not supported"))
		}
	}
	return out, errors.Join(errs...)
}
