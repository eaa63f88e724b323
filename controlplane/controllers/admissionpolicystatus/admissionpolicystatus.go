// SPDX-License-Identifier: Apache-2.0

// Package admissionpolicystatus type-checks the CEL expressions of ValidatingAdmissionPolicies against the types they match and writes what it finds into their
// status. It watches and writes ValidatingAdmissionPolicies; the check itself is k8s.io/apiserver's.
package admissionpolicystatus

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c        *controller.Context
	queue    *controller.Queue
	policies admissionlisters.ValidatingAdmissionPolicyLister
	checker  *validating.TypeChecker
	synced   cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status-controller")
	policies := c.Informers.Admissionregistration().V1().ValidatingAdmissionPolicies()
	l := &loop{
		c: c, policies: policies.Lister(), synced: policies.Informer().HasSynced,
		checker: &validating.TypeChecker{SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: c.Discovery}, RestMapper: c.Mapper},
	}
	l.queue = c.Queue("admissionpolicystatus", l.sync)
	controller.On(policies.Informer(), l.queue.Enqueue)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, 1, l.synced) // a check is heavy, and policies change rarely
}

// sync checks one generation of a policy once.
func (l *loop) sync(ctx context.Context, name string) error {
	policy, err := l.policies.Get(name)
	if err != nil || policy.DeletionTimestamp != nil || policy.Generation <= policy.Status.ObservedGeneration {
		return controller.IgnoreNotFound(err)
	}
	policy = policy.DeepCopy()
	policy.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: l.checker.Check(policy)}
	policy.Status.ObservedGeneration = policy.Generation
	_, err = l.c.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().UpdateStatus(ctx, policy, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}
