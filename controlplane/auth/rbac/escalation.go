// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// EscalationPlugin is the name of the admission plugin. It must not be switched off: without it whoever may write roles is cluster admin.
const EscalationPlugin = "RBACEscalation"

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(EscalationPlugin, func(io.Reader) (admission.Interface, error) { return NewEscalation(), nil })
}

// Escalation is admission of roles and bindings. Who writes a role needs all of its permissions, or the verb "escalate" on it; who binds
// one needs all of its permissions in the binding's scope, or the verb "bind" on the role. Members of system:masters may do both.
type Escalation struct {
	*admission.Handler
	authorizer authorizer.UnconditionalAuthorizer
	client     kubernetes.Interface
	rules      *Authorizer
}

var (
	_ admission.ValidationInterface                = (*Escalation)(nil)
	_ initializer.WantsUnconditionalAuthorizer     = (*Escalation)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*Escalation)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Escalation)(nil)
)

// NewEscalation returns the plugin, to be initialised by its Set methods.
func NewEscalation() *Escalation {
	return &Escalation{Handler: admission.NewHandler(admission.Create, admission.Update)}
}

func (e *Escalation) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) {
	e.authorizer = a
}
func (e *Escalation) SetExternalKubeClientSet(c kubernetes.Interface) { e.client = c }
func (e *Escalation) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	e.rules = New(f)
	r := f.Rbac().V1()
	synced := []func() bool{r.Roles().Informer().HasSynced, r.RoleBindings().Informer().HasSynced, r.ClusterRoles().Informer().HasSynced,
		r.ClusterRoleBindings().Informer().HasSynced}
	e.SetReadyFunc(func() bool { return !slices.ContainsFunc(synced, func(f func() bool) bool { return !f() }) })
}

// ValidateInitialization implements admission.InitializationValidator.
func (e *Escalation) ValidateInitialization() error {
	if e.authorizer == nil || e.client == nil || e.rules == nil {
		return fmt.Errorf("%s needs an authorizer, a client and informers", EscalationPlugin)
	}
	return nil
}

// Validate refuses a write that grants more than its author has.
func (e *Escalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" {
		return nil
	}
	var old, now grant
	var ok bool
	if now, ok = grantOf(a.GetObject()); !ok {
		return nil
	}
	if a.GetOldObject() != nil {
		if old, ok = grantOf(a.GetOldObject()); ok && old.same(now) {
			return nil // labels, annotations, owners: nothing is granted
		}
	}
	u := a.GetUserInfo()
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	var err error
	if now.binds != nil {
		err = e.checkBinding(ctx, a, now)
	} else {
		err = e.checkRole(ctx, a, now)
	}
	if err == nil || apierrors.IsNotFound(err) {
		return err
	}
	return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), err)
}

// grant is what an object gives away: rules (roles), or a role to subjects (bindings).
type grant struct {
	rules     []rbacv1.PolicyRule
	gathers   *rbacv1.AggregationRule
	binds     *rbacv1.RoleRef
	subjects  []rbacv1.Subject
	namespace string
}

func (g grant) same(o grant) bool {
	return g.namespace == o.namespace && equality.Semantic.DeepEqual(g.rules, o.rules) && equality.Semantic.DeepEqual(g.gathers, o.gathers) &&
		equality.Semantic.DeepEqual(g.binds, o.binds) && equality.Semantic.DeepEqual(g.subjects, o.subjects)
}

func grantOf(obj any) (grant, bool) {
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		return grant{rules: o.Rules, gathers: o.AggregationRule}, true
	case *rbacv1.Role:
		return grant{rules: o.Rules, namespace: o.Namespace}, true
	case *rbacv1.ClusterRoleBinding:
		return grant{binds: &o.RoleRef, subjects: o.Subjects}, true
	case *rbacv1.RoleBinding:
		return grant{binds: &o.RoleRef, subjects: o.Subjects, namespace: o.Namespace}, true
	}
	return grant{}, false
}

func (e *Escalation) checkRole(ctx context.Context, a admission.Attributes, g grant) error {
	allowed, err := e.may(ctx, a, "escalate", a.GetResource().Resource, a.GetName(), a.GetNamespace())
	if allowed || err != nil {
		return err
	}
	if g.gathers != nil {
		// What it will hold is not known yet, so it may be everything.
		everything := []rbacv1.PolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}, {Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
		}
		if err := e.covered(a, everything, a.GetNamespace()); err != nil {
			return fmt.Errorf("must have cluster-admin privileges to use an aggregationRule: %w", err)
		}
	}
	return e.covered(a, g.rules, a.GetNamespace())
}

func (e *Escalation) checkBinding(ctx context.Context, a admission.Attributes, g grant) error {
	resource := map[string]string{"ClusterRole": "clusterroles", "Role": "roles"}[g.binds.Kind]
	if resource == "" {
		return fmt.Errorf("unsupported role reference kind: %q", g.binds.Kind)
	}
	allowed, err := e.may(ctx, a, "bind", resource, g.binds.Name, a.GetNamespace())
	if allowed || err != nil {
		return err
	}
	// Read live: what the cache holds may be less than what the binding would grant.
	var rules []rbacv1.PolicyRule
	if resource == "roles" {
		role, err := e.client.RbacV1().Roles(a.GetNamespace()).Get(ctx, g.binds.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		rules = role.Rules
	} else {
		role, err := e.client.RbacV1().ClusterRoles().Get(ctx, g.binds.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		rules = role.Rules
	}
	return e.covered(a, rules, a.GetNamespace())
}

// may asks the authorizers whether the author of a has verb on the named role.
func (e *Escalation) may(ctx context.Context, a admission.Attributes, verb, resource, name, namespace string) (bool, error) {
	if !e.WaitForReady() {
		return false, errors.New("roles are not read yet, try again")
	}
	decision, _, err := e.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, Namespace: namespace, APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource, Name: name, ResourceRequest: true,
	})
	if err != nil && decision != authorizer.DecisionAllow {
		return false, err
	}
	return decision == authorizer.DecisionAllow, nil
}

// covered returns an error that names the rules which the author of a does not have.
func (e *Escalation) covered(a admission.Attributes, wanted []rbacv1.PolicyRule, namespace string) error {
	u := a.GetUserInfo()
	own, problem := e.rules.rules(u, namespace)
	ok, missing := validation.Covers(own, wanted)
	if ok {
		return nil
	}
	err := fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.GetName(), u.GetGroups(),
		strings.Join(ruleTexts(missing), "\n"))
	if problem != nil {
		err = fmt.Errorf("%w; resolution errors: %v", err, problem)
	}
	return err
}

// ruleTexts writes rules as people read them, one resource and its verbs a line.
func ruleTexts(rules []rbacv1.PolicyRule) (out []string) {
	type key struct{ groups, resources, names, urls string }
	verbs := map[key][]string{}
	var order []key
	for _, r := range rules {
		k := key{strings.Join(r.APIGroups, ","), strings.Join(r.Resources, ","), strings.Join(r.ResourceNames, ","), strings.Join(r.NonResourceURLs, ",")}
		if _, ok := verbs[k]; !ok {
			order = append(order, k)
		}
		verbs[k] = append(verbs[k], r.Verbs...)
	}
	for _, k := range order {
		if k.urls != "" {
			out = append(out, fmt.Sprintf("{NonResourceURLs:[%q], Verbs:%q}", k.urls, verbs[k]))
			continue
		}
		names := ""
		if k.names != "" {
			names = fmt.Sprintf(", ResourceNames:[%q]", k.names)
		}
		out = append(out, fmt.Sprintf("{APIGroups:[%q], Resources:[%q]%s, Verbs:%q}", k.groups, k.resources, names, verbs[k]))
	}
	return out
}
