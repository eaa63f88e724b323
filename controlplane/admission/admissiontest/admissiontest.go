// SPDX-License-Identifier: Apache-2.0

// Package admissiontest gives tests of admission plugins their requests and a cluster in memory.
package admissiontest

import (
	"context"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
)

// Request is a write of an object.
type Request struct {
	Object, Old runtime.Object // Old makes it an update
	Subresource string
	Resource    string    // default: the plural of the kind, in its group; "group/resource" names another group
	User        user.Info // default: somebody
	Delete      bool
}

// Attributes is the request as plugins see it.
func (r Request) Attributes(t testing.TB) admission.Attributes {
	t.Helper()
	kinds, _, err := scheme.Scheme.ObjectKinds(r.Object)
	if err != nil {
		t.Fatal(err)
	}
	gvr, _ := meta.UnsafeGuessKindToResource(kinds[0])
	if r.Resource != "" {
		gvr.Resource = r.Resource
		if group, resource, ok := strings.Cut(r.Resource, "/"); ok {
			gvr.Group, gvr.Resource = group, resource
		}
	}
	op := admission.Create
	switch {
	case r.Delete:
		op = admission.Delete
	case r.Old != nil:
		op = admission.Update
	}
	if r.User == nil {
		r.User = &user.DefaultInfo{Name: "somebody"}
	}
	o, err := meta.Accessor(r.Object)
	if err != nil {
		t.Fatal(err)
	}
	return admission.NewAttributesRecord(r.Object, r.Old, kinds[0], o.GetNamespace(), o.GetName(), gvr, r.Subresource, op, nil, false, r.User)
}

// Initialize gives plugin a cluster that holds objects, and waits until its informers have them.
func Initialize(t testing.TB, plugin admission.Interface, may authorizer.UnconditionalAuthorizer, objects ...runtime.Object) *fake.Clientset {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	if p, ok := plugin.(initializer.WantsExternalKubeClientSet); ok {
		p.SetExternalKubeClientSet(client)
	}
	if p, ok := plugin.(initializer.WantsExternalKubeInformerFactory); ok {
		p.SetExternalKubeInformerFactory(factory)
	}
	if p, ok := plugin.(initializer.WantsUnconditionalAuthorizer); ok {
		p.SetUnconditionalAuthorizer(may)
	}
	if p, ok := plugin.(initializer.WantsRESTMapper); ok {
		m := meta.NewDefaultRESTMapper(nil)
		for _, gvk := range []schema.GroupVersionKind{{Version: "v1", Kind: "Pod"}, {Group: "apps", Version: "v1", Kind: "ReplicaSet"}} {
			m.Add(gvk, meta.RESTScopeNamespace)
		}
		m.Add(schema.GroupVersionKind{Version: "v1", Kind: "Node"}, meta.RESTScopeRoot)
		p.SetRESTMapper(m)
	}
	if p, ok := plugin.(admission.InitializationValidator); ok {
		if err := p.ValidateInitialization(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	factory.WaitForCacheSync(ctx.Done())
	return client
}

// May is an authorizer that allows "verb resource/name".
func May(allowed ...string) authorizer.UnconditionalAuthorizer {
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		full := a.GetResource()
		if a.GetSubresource() != "" {
			full += "/" + a.GetSubresource()
		}
		for _, s := range allowed {
			if s == a.GetVerb()+" "+full+" "+a.GetName() {
				return authorizer.DecisionAllow, "", nil
			}
		}
		return authorizer.DecisionNoOpinion, "not listed", nil
	})
}

// Run passes the request through the plugin as the API server does: first mutation, then validation.
func Run(t testing.TB, plugin admission.Interface, r Request) error {
	t.Helper()
	a := r.Attributes(t)
	if !plugin.Handles(a.GetOperation()) {
		return nil
	}
	if p, ok := plugin.(admission.MutationInterface); ok {
		if err := p.Admit(t.Context(), a, nil); err != nil {
			return err
		}
	}
	if p, ok := plugin.(admission.ValidationInterface); ok {
		return p.Validate(t.Context(), a, nil)
	}
	return nil
}
