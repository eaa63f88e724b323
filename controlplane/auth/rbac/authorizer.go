// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"errors"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
)

// Authorizer allows what the roles bound to a user allow. It is an authorizer.Authorizer and an authorizer.RuleResolver.
type Authorizer struct {
	authorizer.AuthorizerFunc
	clusterRoles        rbaclisters.ClusterRoleLister
	clusterRoleBindings rbaclisters.ClusterRoleBindingLister
	roles               rbaclisters.RoleLister
	roleBindings        rbaclisters.RoleBindingLister
}

// New returns an authorizer that reads roles and bindings from the informers of factory, which the caller starts.
func New(factory informers.SharedInformerFactory) *Authorizer {
	i := factory.Rbac().V1()
	a := &Authorizer{
		clusterRoles: i.ClusterRoles().Lister(), clusterRoleBindings: i.ClusterRoleBindings().Lister(),
		roles: i.Roles().Lister(), roleBindings: i.RoleBindings().Lister(),
	}
	a.AuthorizerFunc = a.authorize
	return a
}

// authorize stops at the first rule that allows the request.
func (a *Authorizer) authorize(_ context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	u := request.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "", errors.New("no user on request")
	}
	var allowedBy string
	var problems []error
	a.visit(u, request.GetNamespace(), func(source string, rule *rbacv1.PolicyRule, err error) bool {
		switch {
		case err != nil:
			problems = append(problems, err)
		case ruleAllows(rule, request):
			allowedBy = source
			return false
		}
		return true
	})
	if allowedBy != "" {
		return authorizer.DecisionAllow, "RBAC: allowed by " + allowedBy, nil
	}
	if err := errors.Join(problems...); err != nil {
		return authorizer.DecisionNoOpinion, "RBAC: " + strings.ReplaceAll(err.Error(), "\n", "; "), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// RulesFor returns all rules that apply to u in namespace. The bool is true when a bound role could not be read.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, err := a.rules(u, namespace)
	var resources []authorizer.ResourceRuleInfo
	var urls []authorizer.NonResourceRuleInfo
	for _, r := range rules {
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources,
				ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			urls = append(urls, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return resources, urls, err != nil, err
}

// rules returns the rules of all roles bound to u cluster-wide and, unless namespace is empty, in namespace. With an error the rules that
// could be read are returned too.
func (a *Authorizer) rules(u user.Info, namespace string) (rules []rbacv1.PolicyRule, err error) {
	a.visit(u, namespace, func(_ string, rule *rbacv1.PolicyRule, e error) bool {
		if e != nil {
			err = errors.Join(err, e)
		} else {
			rules = append(rules, *rule)
		}
		return true
	})
	return rules, err
}

// visit calls f for every rule that applies to u, and for every bound role that cannot be read, until f returns false.
func (a *Authorizer) visit(u user.Info, namespace string, f func(source string, rule *rbacv1.PolicyRule, err error) bool) {
	clusterBindings, err := a.clusterRoleBindings.List(labels.Everything())
	if err != nil && !f("", nil, err) {
		return
	}
	for _, b := range clusterBindings {
		if subject := appliesTo(b.Subjects, u, ""); subject != nil {
			if !a.visitRole(b.RoleRef, "", "ClusterRoleBinding "+quote(b.Name), subject, f) {
				return
			}
		}
	}
	if namespace == "" {
		return
	}
	bindings, err := a.roleBindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil && !f("", nil, err) {
		return
	}
	for _, b := range bindings {
		if subject := appliesTo(b.Subjects, u, namespace); subject != nil {
			if !a.visitRole(b.RoleRef, namespace, "RoleBinding "+quote(namespace+"/"+b.Name), subject, f) {
				return
			}
		}
	}
}

func (a *Authorizer) visitRole(ref rbacv1.RoleRef, namespace, binding string, subject *rbacv1.Subject, f func(string, *rbacv1.PolicyRule, error) bool) bool {
	rules, err := a.roleRules(ref, namespace)
	if err != nil {
		return f("", nil, err)
	}
	source := fmt.Sprintf("%s of %s %q to %s", binding, ref.Kind, ref.Name, subjectText(subject))
	for i := range rules {
		if !f(source, &rules[i], nil) {
			return false
		}
	}
	return true
}

// roleRules returns the rules of the role that ref names in a binding of namespace.
func (a *Authorizer) roleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := a.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := a.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// appliesTo returns the first of subjects that u is, nil when none. namespace is that of the binding.
func appliesTo(subjects []rbacv1.Subject, u user.Info, namespace string) *rbacv1.Subject {
	for i := range subjects {
		s := &subjects[i]
		switch s.Kind {
		case rbacv1.UserKind:
			if s.Name == u.GetName() {
				return s
			}
		case rbacv1.GroupKind:
			for _, g := range u.GetGroups() {
				if s.Name == g {
					return s
				}
			}
		case rbacv1.ServiceAccountKind:
			ns := s.Namespace
			if ns == "" {
				ns = namespace
			}
			if ns != "" && serviceaccount.MatchesUsername(ns, s.Name, u.GetName()) {
				return s
			}
		}
	}
	return nil
}

func subjectText(s *rbacv1.Subject) string {
	if s.Kind == rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+s.Namespace)
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name)
}

func quote(s string) string { return `"` + s + `"` }
