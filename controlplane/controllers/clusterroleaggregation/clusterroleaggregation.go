// SPDX-License-Identifier: Apache-2.0

// Package clusterroleaggregation fills ClusterRoles that have an aggregationRule with the rules of the ClusterRoles it selects. It watches ClusterRoles and
// writes their rules.
package clusterroleaggregation

import (
	"cmp"
	"context"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c      *controller.Context
	queue  *controller.Queue
	roles  rbaclisters.ClusterRoleLister
	synced cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("clusterrole-aggregation-controller", "clusterrole-aggregation-controller")
	roles := c.Informers.Rbac().V1().ClusterRoles()
	l := &loop{c: c, roles: roles.Lister(), synced: roles.Informer().HasSynced}
	l.queue = c.Queue("clusterroleaggregation", l.sync)
	controller.On(roles.Informer(), func(any) { // any role may be part of any aggregate; there are few of these
		all, err := l.roles.List(labels.Everything())
		if err != nil {
			return
		}
		for _, role := range all {
			if role.AggregationRule != nil {
				l.queue.Enqueue(role)
			}
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced)
}

// sync collects the rules of one aggregate, in the order of the roles' names and each once.
func (l *loop) sync(ctx context.Context, name string) error {
	role, err := l.roles.Get(name)
	if err != nil || role.AggregationRule == nil {
		return controller.IgnoreNotFound(err)
	}
	rules := []rbacv1.PolicyRule{}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil // validation lets no such selector pass
		}
		parts, err := l.roles.List(selector)
		if err != nil {
			return err
		}
		slices.SortFunc(parts, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
		for _, part := range parts {
			if part.Name == name {
				continue
			}
			for _, rule := range part.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	if equality.Semantic.DeepEqual(role.Rules, rules) {
		return nil
	}
	role = role.DeepCopy()
	role.Rules = rules
	_, err = l.c.Client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}
