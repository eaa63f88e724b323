// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	apiextensionsoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
)

func proxyEndpointSlices(f informers.SharedInformerFactory) (proxy.EndpointSliceGetter, error) {
	return proxy.NewEndpointSliceIndexerGetter(f.Discovery().V1().EndpointSlices())
}

// ownStorage returns a copy of the generic configuration for a delegate whose kinds belong to another scheme, stored with its codec.
func (a *assembly) ownStorage(codec runtime.Codec, gv schema.GroupVersion) (genericapiserver.Config, genericoptions.EtcdOptions) {
	c := *a.generic
	c.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	c.RuleResolver = nil
	c.LoopbackClientConfig = a.local.config(c.LoopbackClientConfig, loopbackUser)
	o := *a.etcd
	o.StorageConfig.Codec = codec
	o.StorageConfig.EncodeVersioner = runtime.NewMultiGroupVersioner(gv, schema.GroupKind{Group: gv.Group})
	o.SkipHealthEndpoints = true
	c.RESTOptionsGetter = a.direct.options(o.CreateRESTOptionsGetter(&genericoptions.SimpleStorageFactory{StorageConfig: o.StorageConfig}, a.generic.ResourceTransformers))
	resources := serverstorage.NewResourceConfig()
	resources.EnableVersions(gv)
	c.MergedResourceConfig = resources
	return c, o
}

// extensions configures the delegate that serves CustomResourceDefinitions and their objects.
func (a *assembly) extensions() apiextensionsapiserver.CompletedConfig {
	gv := apiextensionsv1.SchemeGroupVersion
	c, o := a.ownStorage(apiextensionsapiserver.Codecs.LegacyCodec(gv), gv)
	cfg := &apiextensionsapiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: c, SharedInformerFactory: a.env.Informers},
		ExtraConfig: apiextensionsapiserver.ExtraConfig{
			CRDRESTOptionsGetter: a.direct.options(apiextensionsoptions.NewCRDRESTOptionsGetter(o, a.generic.ResourceTransformers, a.generic.StorageObjectCountTracker)),
			MasterCount:          1,
			ServiceResolver:      a.services,
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, a.generic.LoopbackClientConfig, a.generic.TracerProvider),
		},
	}
	return cfg.Complete()
}

// aggregator builds the delegate that faces the clients: it sends requests to aggregated API servers or down the chain. local is its handler for the
// clients in this process.
func (a *assembly) aggregator(ctx context.Context, next *genericapiserver.GenericAPIServer, crds apiextensionsinformers.SharedInformerFactory) (
	front *apiserver.APIAggregator, local http.Handler, err error) {
	gv := apiregistrationv1.SchemeGroupVersion
	c, _ := a.ownStorage(aggregatorscheme.Codecs.LegacyCodec(gv), gv)
	c.SkipOpenAPIInstallation = true
	outside := c.BuildHandlerChainFunc
	c.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		inner := api
		if a.binding != nil {
			if inner, err = newLocalBind(api, a.types, a.binding, a.generic.AdmissionControl); err != nil {
				return nil
			}
		}
		local = localChain(inner, c, a.cfg.TracingConfig != "")
		return outside(api, c)
	}
	cfg := &apiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: c, SharedInformerFactory: a.env.Informers},
		ExtraConfig: apiserver.ExtraConfig{
			ProxyClientCertFile: a.cfg.ProxyCertFile,
			ProxyClientKeyFile:  a.cfg.ProxyKeyFile,
			ServiceResolver:     a.services,
			ProxyTransport:      &http.Transport{},
		},
	}
	front, failed := cfg.Complete().NewWithDelegate(next)
	if err = errors.Join(err, failed); err != nil {
		return nil, nil, fmt.Errorf("assemble the aggregator: %w", err)
	}
	client, err := apiregistrationclient.NewForConfig(c.LoopbackClientConfig)
	if err != nil {
		return nil, nil, err
	}
	register := autoregister.NewAutoRegisterController(front.APIRegistrationInformers.Apiregistration().V1().APIServices(), client)
	for i, g := range served {
		register.AddAPIServiceToSyncOnStart(localService(g.gv, int32(17900-10*i)))
	}
	register.AddAPIServiceToSyncOnStart(localService(apiextensionsv1.SchemeGroupVersion, 16700))
	crdGroups := newCRDGroups(crds.Apiextensions().V1().CustomResourceDefinitions(), register)
	err = front.GenericAPIServer.AddPostStartHook("kube-apiserver-autoregistration", func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			crdGroups.run(hook)
			register.Run(5, hook.Done())
		}()
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	err = front.GenericAPIServer.AddBootSequenceHealthChecks(registered(front.APIRegistrationInformers.Apiregistration().V1().APIServices()))
	return front, local, err
}

// localService is the APIService of a group version that this process serves.
func localService(gv schema.GroupVersion, priority int32) *apiregistrationv1.APIService {
	s := &apiregistrationv1.APIService{}
	s.Name = gv.Version + "." + gv.Group
	s.Spec = apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: priority, VersionPriority: 15}
	switch {
	case gv.Group == "":
		s.Spec.GroupPriorityMinimum, s.Spec.VersionPriority = 18000, 1
	case gv.Version == "v2":
		s.Spec.VersionPriority = 30
	}
	return s
}
