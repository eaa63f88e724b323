// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// writers is how many objects are written at once: readiness waits for an empty cluster to be filled.
const writers = 16

// Reconcile leaves the cluster holding everything of p: missing objects are created, missing rules and subjects added, additions of the
// administrator kept, objects annotated rbac.authorization.kubernetes.io/autoupdate=false left alone. It is idempotent, and when nothing
// is missing it only lists.
func Reconcile(ctx context.Context, client kubernetes.Interface, p *Policy) error {
	rbac, namespaces := client.RbacV1(), client.CoreV1().Namespaces()
	roles, err := rbac.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("default roles: %w", err)
	}
	bindings, err := rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("default role bindings: %w", err)
	}
	listedRoles := map[string]reconciliation.RuleOwner{}
	for i := range roles.Items {
		listedRoles[roles.Items[i].Name] = reconciliation.ClusterRoleRuleOwner{ClusterRole: &roles.Items[i]}
	}
	listedBindings := map[string]reconciliation.RoleBinding{}
	for i := range bindings.Items {
		listedBindings[bindings.Items[i].Name] = reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &bindings.Items[i]}
	}

	var group errgroup.Group
	group.SetLimit(writers)
	role := func(kind string, r reconciliation.RuleOwner, live reconciliation.RuleOwnerModifier, listed map[string]reconciliation.RuleOwner) {
		group.Go(func() error {
			o := reconciliation.ReconcileRoleOptions{Role: r, Client: live, Confirm: true}
			if listed != nil {
				o.Client = &knownRoles{RuleOwnerModifier: live, listed: listed}
			}
			return attempt(kind+" "+r.GetName(), func() error {
				_, err := o.Run()
				o.Client = live // what was listed may be old by now
				return err
			})
		})
	}
	binding := func(kind string, b reconciliation.RoleBinding, live reconciliation.RoleBindingModifier, listed map[string]reconciliation.RoleBinding) {
		group.Go(func() error {
			o := reconciliation.ReconcileRoleBindingOptions{RoleBinding: b, Client: live, Confirm: true}
			if listed != nil {
				o.Client = &knownBindings{RoleBindingModifier: live, listed: listed}
			}
			return attempt(kind+" "+b.GetName(), func() error {
				_, err := o.Run()
				o.Client = live
				return err
			})
		})
	}
	for _, r := range p.ClusterRoles {
		role("ClusterRole", reconciliation.ClusterRoleRuleOwner{ClusterRole: r.DeepCopy()}, reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()},
			listedRoles)
	}
	for _, b := range p.ClusterRoleBindings {
		binding("ClusterRoleBinding", reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b.DeepCopy()},
			reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()}, listedBindings)
	}
	for _, r := range p.Roles {
		role("Role", reconciliation.RoleRuleOwner{Role: r.DeepCopy()}, reconciliation.RoleModifier{Client: rbac, NamespaceClient: namespaces}, nil)
	}
	for _, b := range p.RoleBindings {
		binding("RoleBinding", reconciliation.RoleBindingAdapter{RoleBinding: b.DeepCopy()},
			reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: namespaces}, nil)
	}
	return group.Wait()
}

// attempt retries while another server writes the same object.
func attempt(what string, f func() error) error {
	again := func(err error) bool {
		return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsServiceUnavailable(err)
	}
	if err := retry.OnError(retry.DefaultBackoff, again, f); err != nil {
		return fmt.Errorf("default %s: %w", what, err)
	}
	return nil
}

// knownRoles and knownBindings answer the first question about an object from a list, and the next ones live: a second one means that the list is old.
// Each is for one object.
type knownRoles struct {
	reconciliation.RuleOwnerModifier
	listed map[string]reconciliation.RuleOwner
	asked  bool
}

func (k *knownRoles) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if k.asked {
		return k.RuleOwnerModifier.Get(namespace, name)
	}
	k.asked = true
	if r, ok := k.listed[name]; ok {
		return r, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
}

type knownBindings struct {
	reconciliation.RoleBindingModifier
	listed map[string]reconciliation.RoleBinding
	asked  bool
}

func (k *knownBindings) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if k.asked {
		return k.RoleBindingModifier.Get(namespace, name)
	}
	k.asked = true
	if b, ok := k.listed[name]; ok {
		return b, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrolebindings"), name)
}
