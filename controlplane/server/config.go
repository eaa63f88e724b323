// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controlplane/store"
)

// Config is a control plane. The zero value of every field but DataDir has a useful meaning.
type Config struct {
	// DataDir holds the store, the keys and the kubeconfigs: default /var/lib/fairlead/server.
	DataDir string `json:"dataDir,omitempty"`

	// BindAddress and Port are where the API is served; default all addresses, 6443. Port 0 means the default; -1 lets the kernel choose.
	BindAddress string `json:"bindAddress,omitempty"`
	Port        int    `json:"port,omitempty"`
	// Inherited are further listening sockets on which the API is served, such as those of systemd's socket activation.
	Inherited []net.Listener `json:"-"`
	// AdvertiseAddresses are the addresses by which nodes and pods reach this server, at most one per family. Default: the address of the
	// interface with the default route, looked up again while the server runs, so a host may change its address.
	AdvertiseAddresses []string `json:"advertiseAddresses,omitempty"`
	// TLSNames are further names and addresses for the serving certificate.
	TLSNames []string `json:"tlsNames,omitempty"`

	// Name is this server's among the servers of the cluster; default the host's name.
	Name string `json:"name,omitempty"`
	// ClusterInit lets further servers join: the embedded etcd listens for its peers. Once it was set it stays so, because the others rely on it.
	ClusterInit bool `json:"clusterInit,omitempty"`
	// Join makes this a further server of a cluster; it is used at the first start only.
	Join *Join `json:"join,omitempty"`
	// PeerPort is where the etcd member listens for its peers, on the address that is advertised first; default 2380.
	PeerPort int `json:"peerPort,omitempty"`

	// ServiceCIDRs are the ranges of ClusterIPs, the cluster's first family first; default 10.96.0.0/16 and fd00:10:96::/112.
	ServiceCIDRs []string `json:"serviceCIDRs,omitempty"`
	// ClusterCIDRs are the ranges of pods; default 10.244.0.0/16 and fd00:10:244::/56. The API server does not use them, components do.
	ClusterCIDRs []string `json:"clusterCIDRs,omitempty"`
	// NodePorts is the range of node ports, default 30000-32767.
	NodePorts string `json:"nodePorts,omitempty"`
	// ClusterDomain is the DNS domain of the cluster, default cluster.local.
	ClusterDomain string `json:"clusterDomain,omitempty"`

	// Store is where the state lives; its DataDir defaults to DataDir/etcd. With Endpoints set no member runs here.
	Store store.Config `json:"store,omitempty"`

	// Token is a bootstrap token (id.secret) with which nodes join; it is made when it does not exist. Empty makes none.
	Token string `json:"token,omitempty"`
	// ServerToken is a token (id.secret) with which further servers join; it is made when it does not exist. Who has it can get the cluster's keys.
	ServerToken string `json:"serverToken,omitempty"`
	// Issuer is the URL in service-account tokens; default https://kubernetes.default.svc.<ClusterDomain>.
	Issuer string `json:"issuer,omitempty"`
	// Audiences of this API server in tokens; default the issuer.
	Audiences []string `json:"audiences,omitempty"`
	// AuthenticationConfig and AuthorizationConfig are paths of Kubernetes' configuration files of these kinds.
	AuthenticationConfig string `json:"authenticationConfig,omitempty"`
	AuthorizationConfig  string `json:"authorizationConfig,omitempty"`
	// TokenWebhook says who else knows tokens: another server that answers TokenReviews.
	TokenWebhook TokenWebhook `json:"tokenWebhook,omitempty"`
	// TokenAuthFile is the path of a CSV file of token,user,uid,"groups".
	TokenAuthFile string `json:"tokenAuthFile,omitempty"`
	// AdmissionConfig is the path of an AdmissionConfiguration; EnableAdmission and DisableAdmission change the default set of plugins.
	AdmissionConfig  string   `json:"admissionConfig,omitempty"`
	EnableAdmission  []string `json:"enableAdmission,omitempty"`
	DisableAdmission []string `json:"disableAdmission,omitempty"`
	// NoAnonymous refuses requests without credentials.
	NoAnonymous bool `json:"noAnonymous,omitempty"`

	// EncryptionConfig, AuditPolicy, AuditLog, AuditWebhook and TracingConfig are as in apiserver.Config.
	EncryptionConfig string `json:"encryptionConfig,omitempty"`
	AuditPolicy      string `json:"auditPolicy,omitempty"`
	AuditLog         string `json:"auditLog,omitempty"`
	AuditWebhook     string `json:"auditWebhook,omitempty"`
	TracingConfig    string `json:"tracingConfig,omitempty"`

	// Kubeconfig is a second place for the administrator's kubeconfig (mode 0600); the first is DataDir/pki/admin.kubeconfig.
	Kubeconfig string `json:"kubeconfig,omitempty"`

	// Components run in this process once /readyz is healthy. The first that fails ends the control plane.
	Components []Component `json:"-"`
	// OnReady is called once, when /readyz is healthy and before components start (systemd's readiness).
	OnReady func(Env) `json:"-"`
	// Idle is called when there has been little work for a while, with the context of Run: the time to give memory back. May be nil.
	Idle func(context.Context) `json:"-"`
	// ShutdownDelay keeps serving after the end was asked for, so that load balancers notice.
	ShutdownDelay time.Duration `json:"shutdownDelay,omitempty"`
}

// TokenWebhook is a server that is asked about tokens that nobody here knows. The zero value asks nobody.
type TokenWebhook struct {
	// ConfigFile is the path of a kubeconfig whose cluster is the webhook and whose user is what the webhook knows this server by.
	ConfigFile string `json:"configFile,omitempty"`
	// Version of the TokenReviews: v1 (default) or v1beta1.
	Version string `json:"version,omitempty"`
	// CacheTTL is how long answers are kept, default 2 minutes.
	CacheTTL time.Duration `json:"cacheTTL,omitempty"`
}

const (
	defaultPort     = 6443
	defaultPeerPort = 2380
)

func (c *Config) pkiDir() string { return filepath.Join(c.DataDir, "pki") }

func (c *Config) complete() error {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.DataDir, "/var/lib/fairlead/server")
	set(&c.NodePorts, "30000-32767")
	set(&c.ClusterDomain, "cluster.local")
	set(&c.Issuer, "https://kubernetes.default.svc."+c.ClusterDomain)
	set(&c.Store.DataDir, filepath.Join(c.DataDir, "etcd"))
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name of this server: %w", err)
		}
		c.Name = strings.ToLower(host)
	}
	if c.PeerPort == 0 {
		c.PeerPort = defaultPeerPort
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []string{"10.96.0.0/16", "fd00:10:96::/112"}
	}
	if len(c.ClusterCIDRs) == 0 {
		c.ClusterCIDRs = []string{"10.244.0.0/16", "fd00:10:244::/56"}
	}
	if len(c.Audiences) == 0 {
		c.Audiences = []string{c.Issuer}
	}
	for _, a := range c.AdvertiseAddresses {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("advertise address %q is not an IP address", a)
		}
	}
	return nil
}

func (c *Config) listen() (net.Listener, error) {
	port := c.Port
	if port < 0 {
		port = 0
	}
	address := net.JoinHostPort(c.BindAddress, strconv.Itoa(port))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve the API on %s: %w", address, err)
	}
	return joinListeners(l, c.Inherited), nil
}
