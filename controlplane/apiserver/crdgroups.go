// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"
)

// apiServices is where wished-for APIServices are put (the aggregator's auto-registration).
type apiServices interface {
	AddAPIServiceToSync(*apiregistrationv1.APIService)
	RemoveAPIServiceToSync(name string)
}

// crdGroups keeps one APIService for every group version that some CustomResourceDefinition serves.
// It watches CustomResourceDefinitions and writes to the auto-registration.
type crdGroups struct {
	lister   crdlisters.CustomResourceDefinitionLister
	informer cache.SharedIndexInformer
	register apiServices

	mu    sync.Mutex
	known map[schema.GroupVersion]bool
}

func newCRDGroups(crds crdinformers.CustomResourceDefinitionInformer, register apiServices) *crdGroups {
	return &crdGroups{lister: crds.Lister(), informer: crds.Informer(), register: register, known: map[schema.GroupVersion]bool{}}
}

// run handles the CRDs that exist already, then follows changes until ctx ends. It returns when the existing ones are handled.
func (g *crdGroups) run(ctx context.Context) {
	changed := func(any) { g.sync() }
	handler, err := g.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: changed})
	if err != nil {
		return
	}
	cache.WaitForCacheSync(ctx.Done(), handler.HasSynced)
	context.AfterFunc(ctx, func() { _ = g.informer.RemoveEventHandler(handler) })
}

// sync compares what the CRDs serve with what was registered.
func (g *crdGroups) sync() {
	crds, err := g.lister.List(labels.Everything())
	if err != nil {
		return
	}
	wanted := map[schema.GroupVersion]bool{}
	for _, crd := range crds {
		if !crd.DeletionTimestamp.IsZero() {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served {
				wanted[schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}] = true
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for gv := range wanted {
		if !g.known[gv] {
			s := localService(gv, 1000)
			s.Spec.VersionPriority = 100
			g.register.AddAPIServiceToSync(s)
		}
	}
	for gv := range g.known {
		if !wanted[gv] {
			g.register.RemoveAPIServiceToSync(gv.Version + "." + gv.Group)
		}
	}
	g.known = wanted
}

// registered is a health check that passes once every built-in group version has its APIService.
func registered(services apiregistrationinformers.APIServiceInformer) healthz.HealthChecker {
	return healthz.NamedCheck("autoregister-completion", func(*http.Request) error {
		for _, g := range served {
			if _, err := services.Lister().Get(g.gv.Version + "." + g.gv.Group); err != nil {
				return fmt.Errorf("%s is not registered yet", g.gv)
			}
		}
		gv := apiextensionsv1.SchemeGroupVersion
		if _, err := services.Lister().Get(gv.Version + "." + gv.Group); err != nil {
			return fmt.Errorf("%s is not registered yet", gv)
		}
		return nil
	})
}
