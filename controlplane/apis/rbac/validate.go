// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"strings"

	v1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateRole(_ context.Context, x *v1.Role) field.ErrorList {
	r := &rule.Report{}
	policyRules(r, x.Rules, true)
	return r.Errors()
}

func validateClusterRole(_ context.Context, x *v1.ClusterRole) field.ErrorList {
	r := &rule.Report{}
	policyRules(r, x.Rules, false)
	if a := x.AggregationRule; a != nil {
		at := field.NewPath("aggregationRule", "clusterRoleSelectors")
		r.Required(at, len(a.ClusterRoleSelectors) > 0, "at least one clusterRoleSelector required if aggregationRule is non-nil")
		for i := range a.ClusterRoleSelectors {
			r.Selector(at.Index(i), &a.ClusterRoleSelectors[i])
		}
	}
	return r.Errors()
}

func policyRules(r *rule.Report, rules []v1.PolicyRule, namespaced bool) {
	for i, p := range rules {
		at := field.NewPath("rules").Index(i)
		r.Required(at.Child("verbs"), len(p.Verbs) > 0, "verbs must contain at least one value")
		if len(p.NonResourceURLs) > 0 {
			if namespaced {
				r.Invalid(at.Child("nonResourceURLs"), p.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(p.APIGroups)+len(p.Resources)+len(p.ResourceNames) > 0 {
				r.Invalid(at.Child("nonResourceURLs"), p.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		r.Required(at.Child("apiGroups"), len(p.APIGroups) > 0, "resource rules must supply at least one api group")
		r.Required(at.Child("resources"), len(p.Resources) > 0, "resource rules must supply at least one resource")
	}
}

func validateRoleBinding(_ context.Context, b *v1.RoleBinding) field.ErrorList {
	r := &rule.Report{}
	binding(r, b.RoleRef, b.Subjects, true)
	return r.Errors()
}

func validateClusterRoleBinding(_ context.Context, b *v1.ClusterRoleBinding) field.ErrorList {
	r := &rule.Report{}
	binding(r, b.RoleRef, b.Subjects, false)
	return r.Errors()
}

func binding(r *rule.Report, ref v1.RoleRef, subjects []v1.Subject, namespaced bool) {
	at := field.NewPath("roleRef")
	if ref.APIGroup != v1.GroupName {
		r.Add(field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{v1.GroupName}))
	}
	if namespaced {
		rule.OneOf(r, at.Child("kind"), ref.Kind, "Role", "ClusterRole")
	} else {
		rule.OneOf(r, at.Child("kind"), ref.Kind, "ClusterRole")
	}
	r.Name(at.Child("name"), ref.Name, func(n string) []string { return pathSegmentName(n, false) })
	for i, s := range subjects {
		subject(r, field.NewPath("subjects").Index(i), s, namespaced)
	}
}

func subject(r *rule.Report, at *field.Path, s v1.Subject, namespaced bool) {
	r.Required(at.Child("name"), s.Name != "", "")
	switch s.Kind {
	case v1.ServiceAccountKind:
		if s.Name != "" {
			r.Invalid(at.Child("name"), s.Name, validation.IsDNS1123Subdomain(s.Name)...)
		}
		if s.APIGroup != "" {
			r.Add(field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		// In a RoleBinding the namespace is the binding's own where it is left out.
		r.Required(at.Child("namespace"), s.Namespace != "" || namespaced, "")
	case v1.UserKind, v1.GroupKind:
		if s.APIGroup != v1.GroupName {
			r.Add(field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{v1.GroupName}))
		}
	default:
		r.Add(field.NotSupported(at.Child("kind"), s.Kind, []string{v1.ServiceAccountKind, v1.UserKind, v1.GroupKind}))
	}
}

// What a binding gives may change, not which role: whoever may edit bindings could give away other rights than were looked at.
func validateRoleBindingUpdate(_ context.Context, b, old *v1.RoleBinding) field.ErrorList {
	return sameRole(b.RoleRef, old.RoleRef)
}

func validateClusterRoleBindingUpdate(_ context.Context, b, old *v1.ClusterRoleBinding) field.ErrorList {
	return sameRole(b.RoleRef, old.RoleRef)
}

func sameRole(now, was v1.RoleRef) field.ErrorList {
	if now == was {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), strings.Join([]string{now.Kind, now.Name}, "/"), "cannot change roleRef")}
}
