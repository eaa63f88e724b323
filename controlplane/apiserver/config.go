// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net"
	"net/http"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apirest "k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
	"github.com/fairlead/fairlead/controlplane/apiserver/core"
)

// Config is what a server needs from outside.
type Config struct {
	// Kinds are the built-in kinds; nil means apis.All().
	Kinds []resource.Resource

	// Listener is where the server accepts TLS connections; it is closed by Run.
	Listener net.Listener
	// Advertise returns this server's own addresses as nodes and pods reach it, at most one per family; they become the endpoints of
	// the Service default/kubernetes. It is asked again and again. AdvertisePort is the port there.
	Advertise     func() []net.IP
	AdvertisePort int
	// Name is this server's among the API servers of the cluster, the same after a restart; empty makes one up at every start.
	Name string
	// ServingCert is the certificate that clients see. When it implements dynamiccertificates.Notifier, a change is served at once.
	ServingCert dynamiccertificates.CertKeyContentProvider
	// ClientCA are the authorities announced to clients that could present a certificate.
	ClientCA dynamiccertificates.CAContentProvider
	// ProxyCertFile and ProxyKeyFile are this server's client certificate towards aggregated API servers.
	ProxyCertFile, ProxyKeyFile string

	Store Store

	// Guards makes everything that decides about requests. It is called once, before the server runs; informers and clients of env work
	// only after that.
	Guards func(ctx context.Context, env Env) (Guards, error)

	// ServiceCIDRs are the ranges of ClusterIPs, the primary family first. NodePorts is "from-to".
	ServiceCIDRs []string
	NodePorts    string

	// Kubelet is how the server reaches kubelets for logs, exec and proxying.
	Kubelet core.KubeletConfig

	// EncryptionConfig is the path of an EncryptionConfiguration; empty stores everything in clear. Changes of the file are followed.
	EncryptionConfig string
	// AuditPolicy is the path of an audit Policy; empty means no audit. AuditLog is the file written ("-" is standard output),
	// AuditWebhook the kubeconfig of a webhook that receives events.
	AuditPolicy, AuditLog, AuditWebhook string
	// TracingConfig is the path of a TracingConfiguration; empty means no tracing.
	TracingConfig string

	// MaxRequestsInFlight is the number of requests (reading, writing) that priority and fairness shares out; defaults 400 and 200.
	MaxRequestsInFlight, MaxMutatingRequestsInFlight int
	// ShutdownDelay keeps serving after the end was asked for, so that load balancers notice.
	ShutdownDelay time.Duration
}

// Store points at the etcd that holds the objects.
type Store struct {
	Endpoints                 []string
	CertFile, KeyFile, CAFile string
	// Client, when not nil, is a client of an etcd in this process; the API's objects then go through it. Endpoints are needed all the same.
	Client *clientv3.Client
	// Prefix of all keys; default /registry.
	Prefix string
}

// Env is what the guards may use.
type Env struct {
	// Loopback is a client configuration of this server with all rights.
	Loopback  *rest.Config
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Informers informers.SharedInformerFactory
	// Services finds the address of a webhook's Service.
	Services webhook.ServiceResolver
	// Generic is the configuration in the making, for admission initializers; Authorization of it is filled when Admission is called.
	Generic *genericapiserver.Config
}

// Guards decide about requests.
type Guards struct {
	Authenticator authenticator.Request
	// RequestHeader says which proxies may assert users by header; nil means none.
	RequestHeader *authenticatorfactory.RequestHeaderConfig
	// APIAudiences are the audiences that a token must name to be valid here.
	APIAudiences authenticator.Audiences
	// TokenAuthenticator answers TokenReviews; nil answers no.
	TokenAuthenticator authenticator.Token
	Authorizer         authorizer.Authorizer
	// ServiceAccountToken is the storage of serviceaccounts/token; nil means that it is not served.
	ServiceAccountToken apirest.Storage
	// Rules answers SelfSubjectRulesReviews.
	Rules authorizer.RuleResolver
	// Admission makes the chain; nil means the chain of k8s.io/apiserver alone (namespace life cycle, policies, webhooks).
	Admission func(ctx context.Context, env Env) (admission.Interface, error)
	// Handlers are further paths, served without the API filter chain's authorization being skipped (OIDC discovery, ...).
	Handlers map[string]http.Handler
	// Bootstrap lists functions that put objects in place through the API. Each is repeated until it returns nil; /readyz waits for that.
	Bootstrap map[string]func(ctx context.Context) error
	// Start lists functions that run once the server accepts requests, each in its own goroutine, until ctx ends.
	Start map[string]func(ctx context.Context) error
}
