// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// Reconcile leaves the cluster holding everything of p: missing objects are created, missing rules and subjects added, additions of the
// administrator kept, objects annotated rbac.authorization.kubernetes.io/autoupdate=false left alone. It is idempotent.
//
// When nothing is stored yet it writes everything without reading each object first, so that an empty cluster is ready sooner.
func Reconcile(ctx context.Context, client kubernetes.Interface, p *Policy) error {
	rbac := client.RbacV1()
	existing, err := rbac.ClusterRoles().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return fmt.Errorf("default roles: %w", err)
	}
	fresh := len(existing.Items) == 0
	for _, r := range p.ClusterRoles {
		if fresh {
			if _, err := rbac.ClusterRoles().Create(ctx, r, metav1.CreateOptions{}); err == nil {
				continue
			}
		}
		o := reconciliation.ReconcileRoleOptions{
			Role: reconciliation.ClusterRoleRuleOwner{ClusterRole: r.DeepCopy()}, Client: reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()}, Confirm: true,
		}
		if err := attempt(func() error { _, err := o.Run(); return err }); err != nil {
			return fmt.Errorf("default ClusterRole %s: %w", r.Name, err)
		}
	}
	for _, b := range p.ClusterRoleBindings {
		if fresh {
			if _, err := rbac.ClusterRoleBindings().Create(ctx, b, metav1.CreateOptions{}); err == nil {
				continue
			}
		}
		o := reconciliation.ReconcileRoleBindingOptions{
			RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b.DeepCopy()},
			Client:      reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()}, Confirm: true,
		}
		if err := attempt(func() error { _, err := o.Run(); return err }); err != nil {
			return fmt.Errorf("default ClusterRoleBinding %s: %w", b.Name, err)
		}
	}
	for _, r := range p.Roles {
		o := reconciliation.ReconcileRoleOptions{
			Role:    reconciliation.RoleRuleOwner{Role: r.DeepCopy()},
			Client:  reconciliation.RoleModifier{Client: rbac, NamespaceClient: client.CoreV1().Namespaces()},
			Confirm: true,
		}
		if err := attempt(func() error { _, err := o.Run(); return err }); err != nil {
			return fmt.Errorf("default Role %s/%s: %w", r.Namespace, r.Name, err)
		}
	}
	for _, b := range p.RoleBindings {
		o := reconciliation.ReconcileRoleBindingOptions{
			RoleBinding: reconciliation.RoleBindingAdapter{RoleBinding: b.DeepCopy()},
			Client:      reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: client.CoreV1().Namespaces()}, Confirm: true,
		}
		if err := attempt(func() error { _, err := o.Run(); return err }); err != nil {
			return fmt.Errorf("default RoleBinding %s/%s: %w", b.Namespace, b.Name, err)
		}
	}
	return nil
}

// attempt retries while another server writes the same object.
func attempt(f func() error) error {
	return retry.OnError(retry.DefaultBackoff, func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsServiceUnavailable(err) }, f)
}
