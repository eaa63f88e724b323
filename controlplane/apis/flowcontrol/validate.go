// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

const mostQueues, mostPrecedence = 10_000_000, 10_000

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }

func validateFlowSchema(_ context.Context, f *v1.FlowSchema) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &f.Spec
	// Two schemas must be there and as they are: without them, nobody could put things right through the API.
	for _, m := range bootstrap.MandatoryFlowSchemas {
		if m.Name == f.Name && !equality.Semantic.DeepEqual(m.Spec, f.Spec) {
			r.Invalid(path, f.Name, "spec of '"+f.Name+"' must equal the fixed value")
		}
	}
	at := path.Child("matchingPrecedence")
	r.Between(at, int64(s.MatchingPrecedence), 1, mostPrecedence)
	if s.MatchingPrecedence == 1 && f.Name != v1.FlowSchemaNameExempt {
		r.Invalid(at, s.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if d := s.DistinguisherMethod; d != nil {
		rule.OneOf(r, path.Child("distinguisherMethod", "type"), d.Type, v1.FlowDistinguisherMethodByNamespaceType, v1.FlowDistinguisherMethodByUserType)
	}
	if at := path.Child("priorityLevelConfiguration", "name"); r.Required(at, s.PriorityLevelConfiguration.Name != "", "must reference a priority level") {
		r.Invalid(at, s.PriorityLevelConfiguration.Name, subdomain(s.PriorityLevelConfiguration.Name)...)
	}
	for i := range s.Rules {
		policyRules(r, path.Child("rules").Index(i), &s.Rules[i])
	}
	return r.Errors()
}

func policyRules(r *rule.Report, at *field.Path, x *v1.PolicyRulesWithSubjects) {
	r.Required(at.Child("subjects"), len(x.Subjects) > 0, "subjects must contain at least one value")
	for i := range x.Subjects {
		subject(r, at.Child("subjects").Index(i), &x.Subjects[i])
	}
	if len(x.ResourceRules)+len(x.NonResourceRules) == 0 {
		r.Required(at, false, "at least one of resourceRules and nonResourceRules has to be non-empty")
	}
	for i, p := range x.ResourceRules {
		at := at.Child("resourceRules").Index(i)
		verbs(r, at.Child("verbs"), p.Verbs)
		alone(r, at.Child("apiGroups"), p.APIGroups, "resource rules must supply at least one api group")
		alone(r, at.Child("resources"), p.Resources, "resource rules must supply at least one resource")
		if len(p.Namespaces) == 0 && !p.ClusterScope {
			r.Required(at.Child("namespaces"), false, "resource rules that are not cluster scoped must supply at least one namespace")
		}
		if len(p.Namespaces) > 1 && slices.Contains(p.Namespaces, v1.NamespaceEvery) {
			r.Invalid(at.Child("namespaces"), p.Namespaces, "if '*' is present, must not specify other namespaces")
		}
		for j, n := range p.Namespaces {
			if n != v1.NamespaceEvery {
				r.Invalid(at.Child("namespaces").Index(j), n, validation.IsDNS1123Label(n)...)
			}
		}
	}
	for i, p := range x.NonResourceRules {
		at := at.Child("nonResourceRules").Index(i)
		verbs(r, at.Child("verbs"), p.Verbs)
		alone(r, at.Child("nonResourceURLs"), p.NonResourceURLs, "nonResourceURLs must contain at least one value")
		for j, u := range p.NonResourceURLs {
			at := at.Child("nonResourceURLs").Index(j)
			switch inner := strings.TrimSuffix(u, "/*"); {
			case u == v1.NonResourceAll:
			case u == "/":
			case !strings.HasPrefix(u, "/"):
				r.Invalid(at, u, "must start with slash")
			case strings.Contains(u, "//"):
				r.Invalid(at, u, "must not contain double slash")
			case strings.Contains(u, " "):
				r.Invalid(at, u, "must not contain white-space")
			case strings.Contains(inner, "*"):
				r.Invalid(at, u, "wildcard can only do suffix matching")
			}
		}
	}
}

func verbs(r *rule.Report, at *field.Path, list []string) {
	alone(r, at, list, "verbs must contain at least one value")
	known := []string{"*", "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
	for i, v := range list {
		if !slices.Contains(known, v) {
			r.Add(field.NotSupported(at.Index(i), v, known))
		}
	}
}

// alone reports an empty list, and "*" beside anything else.
func alone(r *rule.Report, at *field.Path, list []string, missing string) {
	r.Required(at, len(list) > 0, missing)
	if len(list) > 1 && slices.Contains(list, "*") {
		r.Invalid(at, list, "if '*' is present, must not specify other values")
	}
}

func subject(r *rule.Report, at *field.Path, s *v1.Subject) {
	rule.OneOf(r, at.Child("kind"), s.Kind, v1.SubjectKindGroup, v1.SubjectKindServiceAccount, v1.SubjectKindUser)
	for _, x := range []struct {
		kind v1.SubjectKind
		name string
		set  bool
	}{{v1.SubjectKindUser, "user", s.User != nil}, {v1.SubjectKindGroup, "group", s.Group != nil}, {v1.SubjectKindServiceAccount, "serviceAccount",
		s.ServiceAccount != nil}} {
		if x.kind == s.Kind {
			r.Required(at.Child(x.name), x.set, x.name+" is required when subject kind is '"+string(x.kind)+"'")
		} else {
			r.Forbidden(at.Child(x.name), x.set, x.name+" is forbidden when subject kind is not '"+string(x.kind)+"'")
		}
	}
	if s.User != nil {
		r.Required(at.Child("user", "name"), s.User.Name != "", "")
	}
	if s.Group != nil {
		r.Required(at.Child("group", "name"), s.Group.Name != "", "")
	}
	if a := s.ServiceAccount; a != nil {
		at := at.Child("serviceAccount")
		if r.Required(at.Child("name"), a.Name != "", "") && a.Name != v1.NameAll {
			r.Invalid(at.Child("name"), a.Name, subdomain(a.Name)...)
		}
		if r.Required(at.Child("namespace"), a.Namespace != "", "must specify namespace for service account") {
			r.Invalid(at.Child("namespace"), a.Namespace, validation.IsDNS1123Label(a.Namespace)...)
		}
	}
}

func validateFlowSchemaStatus(_ context.Context, f, _ *v1.FlowSchema) field.ErrorList {
	r := &rule.Report{}
	seen := map[v1.FlowSchemaConditionType]bool{}
	for i, c := range f.Status.Conditions {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		r.Required(at, c.Type != "", "")
		if seen[c.Type] {
			r.Add(field.Duplicate(at, c.Type))
		}
		seen[c.Type] = true
	}
	return r.Errors()
}

func validatePriorityLevel(_ context.Context, p *v1.PriorityLevelConfiguration) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &p.Spec
	exemptName := p.Name == v1.PriorityLevelConfigurationNameExempt
	if p.Name == v1.PriorityLevelConfigurationNameCatchAll && !equality.Semantic.DeepEqual(bootstrap.MandatoryPriorityLevelConfigurationCatchAll.Spec, *s) {
		r.Invalid(path, p.Name, "spec of 'catch-all' must equal the fixed value")
	}
	if exemptName != (s.Type == v1.PriorityLevelEnablementExempt) {
		r.Invalid(path.Child("type"), s.Type, "type must be 'Exempt' if and only if name is 'exempt'")
	}
	rule.OneOf(r, path.Child("type"), s.Type, v1.PriorityLevelEnablementExempt, v1.PriorityLevelEnablementLimited)
	switch s.Type {
	case v1.PriorityLevelEnablementExempt:
		r.Forbidden(path.Child("limited"), s.Limited != nil, "must be nil if the type is not Limited")
	case v1.PriorityLevelEnablementLimited:
		r.Forbidden(path.Child("exempt"), s.Exempt != nil, "must be nil if the type is Limited")
		r.Required(path.Child("limited"), s.Limited != nil, "must not be empty when type is Limited")
	}
	if e := s.Exempt; e != nil {
		shares(r, path.Child("exempt"), e.NominalConcurrencyShares, e.LendablePercent)
	}
	if l := s.Limited; l != nil {
		at := path.Child("limited")
		shares(r, at, l.NominalConcurrencyShares, l.LendablePercent)
		if l.BorrowingLimitPercent != nil {
			r.NotNegative(at.Child("borrowingLimitPercent"), int64(*l.BorrowingLimitPercent))
		}
		limitResponse(r, at.Child("limitResponse"), &l.LimitResponse)
	}
	return r.Errors()
}

func shares(r *rule.Report, at *field.Path, nominal, lendable *int32) {
	if nominal != nil {
		r.NotNegative(at.Child("nominalConcurrencyShares"), int64(*nominal))
	}
	if lendable != nil {
		r.Between(at.Child("lendablePercent"), int64(*lendable), 0, 100)
	}
}

func limitResponse(r *rule.Report, at *field.Path, l *v1.LimitResponse) {
	rule.OneOf(r, at.Child("type"), l.Type, v1.LimitResponseTypeQueue, v1.LimitResponseTypeReject)
	q := l.Queuing
	switch l.Type {
	case v1.LimitResponseTypeReject:
		r.Forbidden(at.Child("queuing"), q != nil, "must be nil if limited.limitResponse.type is not Limited")
	case v1.LimitResponseTypeQueue:
		r.Required(at.Child("queuing"), q != nil, "must not be empty if limited.limitResponse.type is Limited")
	}
	if q == nil {
		return
	}
	at = at.Child("queuing")
	r.Positive(at.Child("queueLengthLimit"), int64(q.QueueLengthLimit))
	r.Between(at.Child("queues"), int64(q.Queues), 1, mostQueues)
	r.Positive(at.Child("handSize"), int64(q.HandSize))
	if q.HandSize > q.Queues {
		r.Invalid(at.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
	} else if q.HandSize > 0 && q.Queues <= mostQueues {
		if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
			r.Invalid(at.Child("handSize"), q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues,
				q.HandSize, shufflesharding.MaxHashBits))
		}
	}
}

func validatePriorityLevelStatus(_ context.Context, p, _ *v1.PriorityLevelConfiguration) field.ErrorList {
	r := &rule.Report{}
	seen := map[v1.PriorityLevelConfigurationConditionType]bool{}
	for i, c := range p.Status.Conditions {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		r.Required(at, c.Type != "", "")
		if seen[c.Type] {
			r.Add(field.Duplicate(at, c.Type))
		}
		seen[c.Type] = true
	}
	return r.Errors()
}
