// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead/fairlead/controlplane/auth/rbac"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// policy is the default one, parsed once.
var policy = sync.OnceValues(rbac.DefaultPolicy)

// identify is controller.Context.Identify: the clients it gives do what the default roles let the account do. Anything else fails the test, also where the
// controller would get over the refusal.
func (a *API) identify(c *controller.Context, account, _ string) {
	client, ok := c.Client.(*fake.Clientset)
	if !ok {
		return // the test's own client
	}
	may := func(action clienttesting.Action) error { return a.may(account, action) }
	own := &fake.Clientset{}
	own.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if err := may(action); err != nil {
			return true, nil, err
		}
		obj, err := client.Invokes(action, nil)
		return true, obj, err
	})
	own.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		if err := may(action); err != nil {
			return true, nil, err
		}
		w, err := client.InvokesWatch(action)
		return true, w, err
	})
	c.Client, c.Metadata, c.Dynamic = own, metadataClient{own}, scales(client, may)
}

// may returns the refusal when account has no right to do action.
func (a *API) may(account string, action clienttesting.Action) error {
	p, err := policy()
	if err != nil {
		return err
	}
	gvr := action.GetResource()
	request := authorizer.AttributesRecord{
		User: serviceaccount.UserInfo(metav1.NamespaceSystem, account, ""), Verb: action.GetVerb(), Namespace: action.GetNamespace(), Name: nameOf(action),
		APIGroup: gvr.Group, APIVersion: gvr.Version, Resource: gvr.Resource, Subresource: action.GetSubresource(), ResourceRequest: true,
	}
	if request.Subresource == "finalize" {
		request.Verb = "update" // the fake calls it a creation
	}
	if rbac.RulesAllow(rulesOf(p, account, action.GetNamespace()), request) {
		return nil
	}
	what := gvr.GroupResource()
	if action.GetSubresource() != "" {
		what.Resource += "/" + action.GetSubresource()
	}
	a.t.Errorf("the default roles do not let %s %s %s %q in namespace %q", account, request.Verb, what, request.Name, request.Namespace)
	return apierrors.NewForbidden(what, request.Name, nil)
}

func nameOf(action clienttesting.Action) string {
	switch action := action.(type) {
	case interface{ GetName() string }: // get, patch, delete
		return action.GetName()
	case clienttesting.UpdateAction:
		return accessor(action.GetObject()).GetName()
	}
	return ""
}

// rulesOf lists what p lets account do in namespace.
func rulesOf(p *rbac.Policy, account, namespace string) (rules []rbacv1.PolicyRule) {
	bound := func(subjects []rbacv1.Subject) bool {
		return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			switch s.Kind {
			case rbacv1.ServiceAccountKind:
				return s.Namespace == metav1.NamespaceSystem && s.Name == account
			case rbacv1.GroupKind:
				return slices.Contains(append(serviceaccount.MakeGroupNames(metav1.NamespaceSystem), "system:authenticated"), s.Name)
			}
			return false
		})
	}
	for _, b := range p.ClusterRoleBindings {
		if !bound(b.Subjects) {
			continue
		}
		for _, r := range p.ClusterRoles {
			if r.Name == b.RoleRef.Name {
				rules = append(rules, r.Rules...)
			}
		}
	}
	for _, b := range p.RoleBindings {
		if b.Namespace != namespace || !bound(b.Subjects) {
			continue
		}
		for _, r := range p.Roles {
			if r.Namespace == b.Namespace && r.Name == b.RoleRef.Name {
				rules = append(rules, r.Rules...)
			}
		}
	}
	return rules
}
