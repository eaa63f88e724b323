// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericfeatures "k8s.io/apiserver/pkg/features"
	apirest "k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	utilcompatibility "k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // rest_client_*
	_ "k8s.io/component-base/metrics/prometheus/version"    // kubernetes_build_info
	"k8s.io/klog/v2"
	"k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"

	"github.com/fairlead/fairlead/controlplane/apis"
	generated "github.com/fairlead/fairlead/controlplane/apis/openapi"
)

// Server is an assembled API server that is not running yet.
type Server struct {
	aggregator *apiserver.APIAggregator
	loopback   *rest.Config
	local      *local
	inner      http.Handler // for clients in this process
	pods       cache.SharedIndexInformer
	documents  *documents
	ready      chan struct{}
}

// assembly is what the three delegates are made from.
type assembly struct {
	cfg       Config
	types     *types
	generic   *genericapiserver.Config
	etcd      *genericoptions.EtcdOptions
	env       Env
	guards    Guards
	services  apiserver.ServiceResolver
	resources *serverstorage.ResourceConfig
	direct    *direct // nil when the store is elsewhere
	local     *local
	ready     chan struct{}
	documents *documents
	binding   apirest.NamedCreater // pods/binding; nil when there are no pods
}

// New assembles a server. The store must be reachable when Run is called.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if err := enableFeatures(); err != nil {
		return nil, err
	}
	if cfg.Kinds == nil {
		cfg.Kinds = apis.All()
	}
	types, err := newTypes(cfg.Kinds)
	if err != nil {
		return nil, err
	}
	a := &assembly{cfg: cfg, types: types, local: newLocal(), ready: make(chan struct{})}
	if err := a.configure(ctx); err != nil {
		return nil, err
	}
	return a.chain(ctx)
}

// enableFeatures turns on what Fairlead serves although k8s.io/apiserver leaves it off.
func enableFeatures() error {
	return utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{string(genericfeatures.CBORServingAndStorage): true})
}

// configure fills the generic configuration that all delegates share.
func (a *assembly) configure(ctx context.Context) error {
	c := genericapiserver.NewConfig(a.types.codecs)
	a.generic = c
	c.EffectiveVersion = effectiveVersion{utilcompatibility.DefaultBuildEffectiveVersion()}
	c.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	c.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		return refuseDots(genericapiserver.DefaultBuildHandlerChain(api, c), c.Serializer)
	}
	c.LongRunningFunc = filters.BasicLongRunningRequestCheck(sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	c.ShutdownDelayDuration = a.cfg.ShutdownDelay
	c.ShutdownSendRetryAfter = true
	c.ShutdownWatchTerminationGracePeriod = 5 * time.Second
	c.RequestTimeout = time.Minute
	if a.cfg.MaxRequestsInFlight > 0 {
		c.MaxRequestsInFlight = a.cfg.MaxRequestsInFlight
	}
	if a.cfg.MaxMutatingRequestsInFlight > 0 {
		c.MaxMutatingRequestsInFlight = a.cfg.MaxMutatingRequestsInFlight
	}
	a.describeAPI()
	if err := a.serve(); err != nil {
		return err
	}
	if err := a.store(); err != nil {
		return err
	}
	if err := a.connect(); err != nil {
		return err
	}
	c.FlowControl = utilflowcontrol.New(a.env.Informers, a.env.Client.FlowcontrolV1(), c.MaxRequestsInFlight+c.MaxMutatingRequestsInFlight)
	if err := a.guard(ctx); err != nil {
		return err
	}
	return a.observe()
}

// describeAPI sets up OpenAPI.
func (a *assembly) describeAPI() {
	definitions := openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generated.GetOpenAPIDefinitions)
	namer := apiopenapi.NewDefinitionNamer(a.types.openAPI, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme)
	a.generic.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	a.generic.OpenAPIConfig.Info.Title = "Kubernetes"
	a.generic.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	a.generic.OpenAPIV3Config.Info.Title = "Kubernetes"
}

// serve sets up the listener, its certificates and the loopback client.
func (a *assembly) serve() error {
	o := genericoptions.NewSecureServingOptions()
	o.Listener = a.cfg.Listener
	o.ServerCert.GeneratedCert = a.cfg.ServingCert
	if err := o.ApplyTo(&a.generic.SecureServing); err != nil {
		return fmt.Errorf("serve TLS: %w", err)
	}
	var err error
	if a.generic.LoopbackClientConfig, err = loopback(a.generic.SecureServing); err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	if addresses := a.cfg.Advertise(); len(addresses) > 0 {
		a.generic.PublicAddress = addresses[0]
	}
	if err := a.generic.Authentication.ApplyClientCert(a.cfg.ClientCA, a.generic.SecureServing); err != nil {
		return fmt.Errorf("client certificate authority: %w", err)
	}
	a.generic.LoopbackClientConfig.DisableCompression = true
	return nil
}

// formerPrefixes are the etcd paths under which Kubernetes has always kept some kinds, so that an existing etcd can be taken over.
var formerPrefixes = map[schema.GroupResource]string{
	{Resource: "replicationcontrollers"}:                "controllers",
	{Resource: "endpoints"}:                             "services/endpoints",
	{Resource: "nodes"}:                                 "minions",
	{Resource: "services"}:                              "services/specs",
	{Group: "networking.k8s.io", Resource: "ingresses"}: "ingress",
}

// uncached are the kinds without a watch cache, as in Kubernetes: events are written all the time and hardly read.
var uncached = []schema.GroupResource{{Resource: "events"}, {Group: "events.k8s.io", Resource: "events"}}

// store sets up how objects reach etcd.
func (a *assembly) store() error {
	prefix := a.cfg.Store.Prefix
	if prefix == "" {
		prefix = "/registry"
	}
	backend := storagebackend.NewDefaultConfig(prefix, nil)
	backend.Transport.ServerList = a.cfg.Store.Endpoints
	backend.Transport.CertFile = a.cfg.Store.CertFile
	backend.Transport.KeyFile = a.cfg.Store.KeyFile
	backend.Transport.TrustedCAFile = a.cfg.Store.CAFile
	backend.StorageObjectCountTracker = a.generic.StorageObjectCountTracker

	o := genericoptions.NewEtcdOptions(backend)
	o.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	o.EncryptionProviderConfigFilepath = a.cfg.EncryptionConfig
	o.EncryptionProviderConfigAutomaticReload = a.cfg.EncryptionConfig != ""
	for _, r := range uncached {
		o.WatchCacheSizes = append(o.WatchCacheSizes, r.String()+"#0")
	}
	a.etcd = o

	a.resources = serverstorage.NewResourceConfig()
	for _, g := range served {
		a.resources.EnableVersions(g.gv)
	}
	a.generic.MergedResourceConfig = a.resources
	factory := serverstorage.NewDefaultStorageFactory(o.StorageConfig, o.DefaultStorageMediaType, a.types.codecs,
		serverstorage.NewDefaultResourceEncodingConfigForEffectiveVersion(a.types.scheme, a.generic.EffectiveVersion), a.resources, formerPrefixes)
	if err := o.ApplyWithStorageFactoryTo(factory, a.generic); err != nil {
		return fmt.Errorf("set up storage: %w", err)
	}
	a.direct = newDirect(a.cfg.Store.Client)
	a.generic.RESTOptionsGetter = a.direct.options(a.generic.RESTOptionsGetter)
	return nil
}

// connect makes the clients of this very server.
func (a *assembly) connect() error {
	loopback := a.local.config(a.generic.LoopbackClientConfig, loopbackUser)
	a.env = Env{Loopback: a.generic.LoopbackClientConfig, Generic: a.generic}
	typed := rest.CopyConfig(loopback)
	typed.ContentType = runtime.ContentTypeProtobuf
	typed.WarningHandler = rest.NoWarnings{}
	typed.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(typed)
	if err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	dyn, err := dynamic.NewForConfig(loopback)
	if err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	a.env.Client, a.env.Dynamic = client, dyn
	a.env.Informers = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	if a.services, err = newServiceResolver(a.env.Informers, a.generic.LoopbackClientConfig.Host); err != nil {
		return err
	}
	a.env.Services = a.services
	return nil
}

// trim drops the managed fields of pods, of which there are many: nobody reads them from a cache.
func trim(obj any) (any, error) {
	if pod, ok := obj.(*corev1.Pod); ok {
		pod.ManagedFields = nil
	}
	return obj, nil
}

// guard asks for authentication, authorization and admission and installs them.
func (a *assembly) guard(ctx context.Context) error {
	if a.cfg.Guards == nil {
		return errors.New("apiserver: no guards given")
	}
	g, err := a.cfg.Guards(ctx, a.env)
	if err != nil {
		return fmt.Errorf("set up authentication and authorization: %w", err)
	}
	a.guards = g
	auth := &a.generic.Authentication
	auth.Authenticator, auth.APIAudiences = g.Authenticator, g.APIAudiences
	if g.RequestHeader != nil {
		auth.RequestHeaderConfig = g.RequestHeader
		if err := auth.ApplyClientCert(g.RequestHeader.CAContentProvider, a.generic.SecureServing); err != nil {
			return fmt.Errorf("request header certificate authority: %w", err)
		}
	}
	a.generic.Authorization.Authorizer = g.Authorizer
	a.generic.RuleResolver = g.Rules
	if g.Admission == nil {
		o := genericoptions.NewAdmissionOptions()
		err := o.ApplyTo(a.generic, a.env.Informers, a.env.Client, a.env.Dynamic, utilfeature.DefaultFeatureGate, a.generic.EffectiveVersion)
		if err != nil {
			return fmt.Errorf("set up admission: %w", err)
		}
	} else {
		chain, err := g.Admission(ctx, a.env)
		if err != nil {
			return fmt.Errorf("set up admission: %w", err)
		}
		a.generic.AdmissionControl = chain
	}
	for name, start := range g.Start {
		a.generic.AddPostStartHookOrDie(name, func(hook genericapiserver.PostStartHookContext) error {
			go func() {
				if err := start(hook); err != nil && hook.Err() == nil {
					klog.FromContext(hook).Error(err, "Background task of the API server ended", "task", name)
				}
			}()
			return nil
		})
	}
	return nil
}

// observe sets up audit and tracing.
func (a *assembly) observe() error {
	audit := genericoptions.NewAuditOptions()
	audit.PolicyFile = a.cfg.AuditPolicy
	audit.LogOptions.Path = a.cfg.AuditLog
	audit.WebhookOptions.ConfigFile = a.cfg.AuditWebhook
	if err := errors.Join(audit.Validate()...); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := audit.ApplyTo(a.generic); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	tracing := genericoptions.NewTracingOptions()
	tracing.ConfigFile = a.cfg.TracingConfig
	if err := tracing.ApplyTo(nil, a.generic); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	return nil
}

// chain builds the delegates from the last to the first.
func (a *assembly) chain(ctx context.Context) (*Server, error) {
	hooks := a.generic.PostStartHooks
	a.generic.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	notFound := notfoundhandler.New(a.generic.Serializer, genericapifilters.NoMuxAndDiscoveryIncompleteKey)
	crds, err := a.extensions().New(genericapiserver.NewEmptyDelegateWithCustomHandler(notFound))
	if err != nil {
		return nil, fmt.Errorf("assemble custom resources: %w", err)
	}
	builtin := *a.generic
	builtin.PostStartHooks = hooks
	kinds, err := a.builtin(ctx, &builtin, crds.GenericAPIServer)
	if err != nil {
		return nil, err
	}
	front, inner, err := a.aggregator(ctx, kinds, crds.Informers)
	if err != nil {
		return nil, err
	}
	front.GenericAPIServer.RegisterDestroyFunc(a.direct.close)
	return &Server{aggregator: front, loopback: a.generic.LoopbackClientConfig, local: a.local, inner: inner, pods: a.env.Informers.Core().V1().Pods().Informer(),
		documents: a.documents, ready: a.ready}, nil
}

// Loopback returns a client configuration with all rights, valid while the server runs.
func (s *Server) Loopback() *rest.Config { return rest.CopyConfig(s.loopback) }

// Local is Loopback without a socket between, for clients in this process. It cannot upgrade connections (exec, attach, port-forward).
func (s *Server) Local() *rest.Config { return s.local.config(s.loopback, loopbackUser) }

// LocalAs is Local with the rights of a user.
func (s *Server) LocalAs(who user.Info) *rest.Config {
	c := s.local.config(s.loopback, who)
	c.BearerToken = ""
	return c
}

// Pods is an informer of pods, without managed fields, that runs while the server does.
func (s *Server) Pods() cache.SharedIndexInformer { return s.pods }

// Handler is the server without its listener, for tests.
func (s *Server) Handler() http.Handler { return s.aggregator.GenericAPIServer.Handler }

// Run serves until ctx ends, then drains requests and returns. Ready is closed meanwhile when /readyz turns healthy.
func (s *Server) Run(ctx context.Context) error {
	prepared, err := s.aggregator.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare the API server: %w", err)
	}
	s.documents.slim()
	defer s.local.open(s.inner)()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	client, err := rest.HTTPClientFor(s.loopback)
	if err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	go s.watchReady(watch, client)
	return prepared.Run(ctx)
}

// Ready is closed when /readyz turned healthy for the first time.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// watchReady asks over TLS, as everybody else does.
func (s *Server) watchReady(ctx context.Context, client *http.Client) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if answersReady(ctx, client, s.loopback.Host) {
			close(s.ready)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func answersReady(ctx context.Context, client *http.Client, host string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body) // so that the connection is used again
	return err == nil && resp.StatusCode == http.StatusOK
}

// newServiceResolver finds the endpoint of a Service for webhooks and aggregated API servers: a ready pod of it, not the ClusterIP, so that the
// host's own network need not know service addresses. The Service default/kubernetes is this server.
func newServiceResolver(f informers.SharedInformerFactory, loopback string) (apiserver.ServiceResolver, error) {
	slices, err := proxyEndpointSlices(f)
	if err != nil {
		return nil, err
	}
	self, err := url.Parse(loopback)
	if err != nil {
		return nil, err
	}
	services := f.Core().V1().Services().Lister()
	return apiserver.NewLoopbackServiceResolver(serviceResolver{services, apiserver.NewEndpointServiceResolver(services, slices),
		apiserver.NewClusterIPServiceResolver(services)}, self), nil
}

// serviceResolver knows endpoints, and the other names that Services of type ExternalName are.
type serviceResolver struct {
	services           corelisters.ServiceLister
	endpoints, cluster apiserver.ServiceResolver
}

func (r serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	if s, err := r.services.Services(namespace).Get(name); err == nil && s.Spec.Type == corev1.ServiceTypeExternalName {
		return r.cluster.ResolveEndpoint(namespace, name, port)
	}
	return r.endpoints.ResolveEndpoint(namespace, name, port)
}
