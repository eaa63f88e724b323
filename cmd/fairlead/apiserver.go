// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/cmd/fairlead/memory"
	"github.com/fairlead/fairlead/controlplane/server"
)

// apiOptions are the flags of an API server and its store; `fairlead server` and `fairlead apiserver` share them.
type apiOptions struct {
	config             server.Config
	join               joinOptions
	bootstrapTokenFile string
}

func (o *apiOptions) register(f *pflag.FlagSet) {
	f.StringVar(&o.config.BindAddress, "bind-address", "", "address to serve the API on (default all)")
	f.IntVar(&o.config.Port, "port", 6443, "port to serve the API on")
	f.StringSliceVar(&o.config.TLSNames, "tls-san", nil, "further names and addresses for the server's certificate")
	f.StringSliceVar(&o.config.Store.Endpoints, "etcd-endpoints", nil, "use this etcd cluster instead of the embedded one")
	f.StringVar(&o.config.Store.CertFile, "etcd-certfile", "", "client certificate for --etcd-endpoints")
	f.StringVar(&o.config.Store.KeyFile, "etcd-keyfile", "", "client key for --etcd-endpoints")
	f.StringVar(&o.config.Store.CAFile, "etcd-cafile", "", "CA that signed the certificates of --etcd-endpoints")
	f.StringVar(&o.config.EncryptionConfig, "encryption-provider-config", "", "EncryptionConfiguration file")
	f.StringVar(&o.config.AuditPolicy, "audit-policy-file", "", "audit Policy file; without it there is no audit log")
	f.StringVar(&o.config.AuditLog, "audit-log-path", "-", "audit log file, - for standard output")
	f.StringVar(&o.config.AuditWebhook, "audit-webhook-config-file", "", "kubeconfig of a server that gets the audit events")
	f.StringVar(&o.config.TracingConfig, "tracing-config-file", "", "TracingConfiguration file")
	f.StringVar(&o.config.AuthenticationConfig, "authentication-config", "", "AuthenticationConfiguration file (OIDC)")
	f.StringVar(&o.config.TokenAuthFile, "token-auth-file", "", `CSV file of tokens that are accepted: token,user,uid,"group,..."`)
	f.StringVar(&o.config.TokenWebhook.ConfigFile, "authentication-token-webhook-config-file", "", "kubeconfig of a server that answers TokenReviews")
	f.StringVar(&o.config.TokenWebhook.Version, "authentication-token-webhook-version", "v1", "version of these TokenReviews: v1 or v1beta1")
	f.DurationVar(&o.config.TokenWebhook.CacheTTL, "authentication-token-webhook-cache-ttl", 2*time.Minute, "how long the answers to TokenReviews are kept")
	f.StringVar(&o.config.AuthorizationConfig, "authorization-config", "", "AuthorizationConfiguration file (webhooks, and the order of authorizers)")
	f.StringVar(&o.config.AdmissionConfig, "admission-control-config-file", "", "AdmissionConfiguration file")
	f.StringSliceVar(&o.config.EnableAdmission, "enable-admission-plugins", nil, "admission plugins to switch on besides the default ones")
	f.StringSliceVar(&o.config.DisableAdmission, "disable-admission-plugins", nil, "default admission plugins to switch off")
	f.BoolVar(&o.config.ClusterInit, "cluster-init", false, "let further servers join: etcd listens for its peers on the node's address (mutual TLS); once set it stays so")
	f.IntVar(&o.config.PeerPort, "etcd-peer-port", 2380, "port on which etcd members of several servers reach each other")
	f.StringSliceVar(&o.config.ClusterCIDRs, "cluster-cidr", nil, "addresses of pods, at most one CIDR per family (default 10.244.0.0/16,fd00:10:244::/56)")
	f.StringSliceVar(&o.config.ServiceCIDRs, "service-cidr", nil, "addresses of Services, at most one CIDR per family (default 10.96.0.0/16,fd00:10:96::/112)")
	f.StringSliceVar(&o.config.AdvertiseAddresses, "advertise-address", nil, "addresses by which nodes reach this server (default: that of the default route)")
	f.StringVar(&o.bootstrapTokenFile, "bootstrap-token-file", "", "file with the token (id.secret) by which nodes join")
	o.join.register(f, "URL of a running server of the cluster that this one joins; used until it has joined")
}

// complete returns the configuration: with the tokens read, in dataDir, and advertised at the node's addresses if no others are given.
func (o *apiOptions) complete(dataDir string, nodeIPs []string) (server.Config, error) {
	cfg := o.config
	cfg.DataDir = filepath.Join(dataDir, "server")
	if len(cfg.AdvertiseAddresses) == 0 {
		cfg.AdvertiseAddresses = nodeIPs
	}
	if o.bootstrapTokenFile != "" {
		token, err := os.ReadFile(o.bootstrapTokenFile)
		if err != nil {
			return cfg, fmt.Errorf("read the bootstrap token: %w", err)
		}
		cfg.Token = strings.TrimSpace(string(token))
	}
	return cfg, o.joinOrInit(&cfg)
}

// joinOrInit says how cfg comes into a cluster of several servers: it joins with the token, or it is the first and makes that token.
func (o *apiOptions) joinOrInit(cfg *server.Config) error {
	token, err := o.join.readToken()
	if err != nil {
		return err
	}
	if o.join.server == "" {
		if o.join.caCert != "" || o.join.caHash != "" {
			return errors.New("--ca-cert and --ca-hash are for a server that joins: give --server")
		}
		cfg.ServerToken = token
		return nil
	}
	if o.config.ClusterInit {
		return errors.New("--cluster-init is for the first server, --server for those that join it: give one of them")
	}
	if err := o.join.check(); err != nil {
		return err
	}
	cfg.Join = &server.Join{Server: o.join.server, Token: token, CAHash: o.join.caHash}
	if o.join.caCert != "" {
		if cfg.Join.CA, err = os.ReadFile(o.join.caCert); err != nil {
			return fmt.Errorf("read the cluster's CA certificate: %w", err)
		}
	}
	return nil
}

// newAPIServerCommand is `fairlead server` without controllers, scheduler and node.
func newAPIServerCommand() *cobra.Command {
	var o apiOptions
	var dataDir string
	cmd := &cobra.Command{
		Use:   "apiserver",
		Short: "Run the API server alone, with the embedded etcd or an existing one",
		Example: `  fairlead apiserver --etcd-endpoints https://10.0.0.1:2379 --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key
  fairlead controllers --kubeconfig /var/lib/fairlead/server/pki/controller-manager.kubeconfig
  fairlead scheduler --kubeconfig /var/lib/fairlead/server/pki/scheduler.kubeconfig`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := o.complete(dataDir, nil)
			if err != nil {
				return err
			}
			if cfg.Inherited, err = inheritedListeners(); err != nil {
				return err
			}
			cfg.OnReady = func(server.Env) { ready(ctx) }
			cfg.Idle = memory.GiveBack
			return server.Run(ctx, cfg)
		},
	}
	f := cmd.Flags()
	o.register(f)
	f.StringVar(&dataDir, "data-dir", "/var/lib/fairlead", "directory for keys and, with the embedded etcd, everything else")
	f.StringVar(&o.config.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringVar(&o.config.Name, "server-name", "", "name of this server among the cluster's (default: the host's name)")
	return cmd
}

// ready tells the service manager that the API is served.
func ready(ctx context.Context) {
	if err := notifySystemd("READY=1"); err != nil {
		klog.FromContext(ctx).Error(err, "Tell systemd that the server is ready")
	}
}
