// SPDX-License-Identifier: Apache-2.0

// Package policystatus checks the expressions of ValidatingAdmissionPolicies against the types they will see, and writes what it finds into
// status.typeChecking. It watches policies and writes their status. It runs beside the API server because it needs the compiled-in type
// definitions.
package policystatus

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/apis/openapi"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// Controller is the control loop.
type Controller struct {
	client   kubernetes.Interface
	policies admissionlisters.ValidatingAdmissionPolicyLister
	synced   cache.InformerSynced
	mapper   *restmapper.DeferredDiscoveryRESTMapper
	checker  *validating.TypeChecker
	queue    *controller.Queue
}

// New registers with factory, which the caller starts.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) (*Controller, error) {
	informer := factory.Admissionregistration().V1().ValidatingAdmissionPolicies()
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	c := &Controller{
		client: client, policies: informer.Lister(), mapper: mapper,
		checker: &validating.TypeChecker{
			RestMapper: mapper,
			SchemaResolver: resolver.NewDefinitionsSchemaResolver(openapi.GetOpenAPIDefinitions, scheme.Scheme).
				Combine(&resolver.ClientDiscoveryResolver{Discovery: client.Discovery()}),
		},
	}
	c.queue = controller.NewQueue("policystatus", clock.RealClock{}, c.sync)
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.queue.Enqueue, UpdateFunc: func(_, obj any) { c.queue.Enqueue(obj) },
	})
	if err != nil {
		return nil, err
	}
	c.synced = registration.HasSynced
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.queue.Run(ctx, 1, c.synced) }

// sync checks the policy once a generation.
func (c *Controller) sync(ctx context.Context, name string) error {
	policy, err := c.policies.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if policy.Status.ObservedGeneration >= policy.Generation && policy.Status.TypeChecking != nil {
		return nil
	}
	c.mapper.Reset() // a custom resource that the policy speaks of may be new
	policy = policy.DeepCopy()
	policy.Status.ObservedGeneration = policy.Generation
	policy.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: c.checker.Check(policy)}
	_, err = c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().UpdateStatus(ctx, policy, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
