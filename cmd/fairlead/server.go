// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/cloud"
	"github.com/fairlead/fairlead/controlplane/controllers"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/scheduler"
	"github.com/fairlead/fairlead/controlplane/server"
	"github.com/fairlead/fairlead/dataplane/dns"
)

// serverOptions are the flags of `fairlead server`.
type serverOptions struct {
	node               nodeOptions
	clusterCIDRs       []string
	serviceCIDRs       []string
	advertise          []string
	loadBalancerPools  []string
	controllers        []string
	bootstrapTokenFile string
	schedulerConfig    string
	join               joinOptions
	disableAgent       bool
	api                server.Config
}

func newServerCommand() *cobra.Command {
	var o serverOptions
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a whole cluster on this host: control plane and node",
		Example: `  fairlead server
  fairlead server --cluster-cidr 10.42.0.0/16 --service-cidr 10.43.0.0/16 --load-balancer-pool 192.0.2.0/24

Three servers: start the first with --cluster-init, run "fairlead token create --server --print-join-command" there, and run what it prints on the others:
  fairlead server --cluster-init
  fairlead server --server https://10.0.0.1:6443 --token-file token --ca-hash sha256:...`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	f := cmd.Flags()
	o.node.register(f)
	f.StringSliceVar(&o.clusterCIDRs, "cluster-cidr", nil, "addresses of pods, at most one CIDR per family (default 10.244.0.0/16,fd00:10:244::/56)")
	f.StringSliceVar(&o.serviceCIDRs, "service-cidr", nil, "addresses of Services, at most one CIDR per family (default 10.96.0.0/16,fd00:10:96::/112)")
	f.StringSliceVar(&o.advertise, "advertise-address", nil, "addresses by which nodes reach this server (default: that of the default route)")
	f.StringSliceVar(&o.loadBalancerPools, "load-balancer-pool", nil, "CIDRs from which Services of type LoadBalancer get addresses")
	f.StringSliceVar(&o.controllers, "controllers", nil, `controllers to run: "*" all, NAME one, -NAME not that one`)
	f.BoolVar(&o.api.ClusterInit, "cluster-init", false, "let further servers join: etcd listens for its peers on the node's address (mutual TLS); once set it stays so")
	f.IntVar(&o.api.PeerPort, "etcd-peer-port", 2380, "port on which etcd members of several servers reach each other")
	o.join.register(f, "URL of a running server of the cluster that this one joins; used until it has joined")
	f.StringVar(&o.bootstrapTokenFile, "bootstrap-token-file", "", "file with the token (id.secret) by which nodes join")
	f.StringVar(&o.schedulerConfig, "scheduler-config", "", "KubeSchedulerConfiguration file")
	f.BoolVar(&o.disableAgent, "disable-agent", false, "run the control plane only; no pods run on this host")
	f.StringVar(&o.api.BindAddress, "bind-address", "", "address to serve the API on (default all)")
	f.IntVar(&o.api.Port, "port", 6443, "port to serve the API on")
	f.StringSliceVar(&o.api.TLSNames, "tls-san", nil, "further names and addresses for the server's certificate")
	f.StringSliceVar(&o.api.Store.Endpoints, "etcd-endpoints", nil, "use this etcd cluster instead of the embedded one")
	f.StringVar(&o.api.EncryptionConfig, "encryption-provider-config", "", "EncryptionConfiguration file")
	f.StringVar(&o.api.AuditPolicy, "audit-policy-file", "", "audit Policy file; without it there is no audit log")
	f.StringVar(&o.api.AuditLog, "audit-log-path", "-", "audit log file, - for standard output")
	f.StringVar(&o.api.AuthenticationConfig, "authentication-config", "", "AuthenticationConfiguration file (OIDC)")
	f.StringSliceVar(&o.api.EnableAdmission, "enable-admission-plugins", nil, "admission plugins to switch on besides the default ones")
	f.StringSliceVar(&o.api.DisableAdmission, "disable-admission-plugins", nil, "default admission plugins to switch off")
	return cmd
}

func (o *serverOptions) run(ctx context.Context) error {
	if _, err := cloud.NewPools(o.loadBalancerPools); err != nil {
		return err
	}
	cfg := o.api
	cfg.DataDir = filepath.Join(o.node.dataDir, "server")
	cfg.AdvertiseAddresses, cfg.ServiceCIDRs, cfg.ClusterCIDRs, cfg.ClusterDomain = o.advertise, o.serviceCIDRs, o.clusterCIDRs, o.node.clusterDomain
	if len(cfg.AdvertiseAddresses) == 0 {
		cfg.AdvertiseAddresses = o.node.ips
	}
	if o.bootstrapTokenFile != "" {
		token, err := os.ReadFile(o.bootstrapTokenFile)
		if err != nil {
			return fmt.Errorf("read the bootstrap token: %w", err)
		}
		cfg.Token = strings.TrimSpace(string(token))
	}
	var err error
	if cfg.Name, err = o.node.nodeName(); err != nil {
		return err
	}
	if err := o.joinOrInit(&cfg); err != nil {
		return err
	}
	if cfg.Inherited, err = inheritedListeners(); err != nil {
		return err
	}
	cfg.OnReady = func(env server.Env) {
		if err := notifySystemd("READY=1"); err != nil {
			klog.FromContext(ctx).Error(err, "Tell systemd that the server is ready")
		}
	}
	cfg.Components = []server.Component{
		{Name: "controllers", Run: o.runControllers},
		{Name: "scheduler", Run: o.runScheduler},
	}
	if !o.disableAgent {
		cfg.Components = append(cfg.Components, server.Component{Name: "agent", Run: o.runAgent})
	}
	return server.Run(ctx, cfg)
}

// joinOrInit says how cfg comes into a cluster of several servers: it joins with the token, or it is the first and makes that token.
func (o *serverOptions) joinOrInit(cfg *server.Config) error {
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
	if o.api.ClusterInit {
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

func (o *serverOptions) runControllers(ctx context.Context, env server.Env) error {
	ca, err := os.ReadFile(env.Keys.CAFile())
	if err != nil {
		return err
	}
	key, err := os.ReadFile(strings.TrimSuffix(env.Keys.CAFile(), ".crt") + ".key")
	if err != nil {
		return err
	}
	clusterDNS, err := dnsAddresses(env.Config.ServiceCIDRs)
	if err != nil {
		return err
	}
	return controllers.Run(ctx, controllers.Config{
		RESTConfig:  env.Client,
		Controllers: o.controllers,
		Settings: controller.Settings{
			ClusterCIDRs: env.Config.ClusterCIDRs, ServiceCIDRs: env.Config.ServiceCIDRs, ClusterName: "fairlead",
			ClusterDomain: env.Config.ClusterDomain, RootCA: ca, SigningCert: ca, SigningKey: key,
			ClusterDNS: clusterDNS, DNSPort: dns.Port, LoadBalancerPools: o.loadBalancerPools,
		},
	})
}

func (o *serverOptions) runScheduler(ctx context.Context, env server.Env) error {
	return scheduler.Run(ctx, scheduler.Config{RESTConfig: env.Client, ConfigFile: o.schedulerConfig})
}

// runAgent runs this host's own node with a certificate straight from the cluster's authority.
func (o *serverOptions) runAgent(ctx context.Context, env server.Env) error {
	node := o.node
	dir := filepath.Join(node.dataDir, "agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name, err := node.nodeName()
	if err != nil {
		return err
	}
	kubeconfig, serving := filepath.Join(dir, "kubelet.kubeconfig"), filepath.Join(dir, "kubelet-serving.pem")
	if err := env.Keys.WriteNode(ctx, kubeconfig, serving, name, node.ips); err != nil {
		return fmt.Errorf("certificates of node %s: %w", name, err)
	}
	node.kubeconfig, node.servingCert, node.clientCA = kubeconfig, serving, env.Keys.CAFile()
	node.serviceCIDRs, node.clusterCIDRs = env.Config.ServiceCIDRs, env.Config.ClusterCIDRs
	return node.run(ctx)
}

// dnsAddresses returns the tenth address of each service range: the cluster's DNS Service.
func dnsAddresses(serviceCIDRs []string) ([]string, error) {
	var out []string
	for _, c := range serviceCIDRs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return nil, fmt.Errorf("service range: %w", err)
		}
		a := p.Masked().Addr()
		for range 10 {
			a = a.Next()
		}
		if !p.Contains(a) {
			return nil, fmt.Errorf("service range %s is too small: it needs at least 16 addresses", c)
		}
		out = append(out, a.String())
	}
	return out, nil
}

// notifySystemd sends state to the service manager when there is one (sd_notify(3)).
func notifySystemd(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// inheritedListeners returns the sockets that the service manager passed to this process (sd_listen_fds(3)).
func inheritedListeners() ([]net.Listener, error) {
	const firstFD = 3
	var count int
	if pid := os.Getenv("LISTEN_PID"); pid != "" && pid != fmt.Sprint(os.Getpid()) {
		return nil, nil
	}
	if n := os.Getenv("LISTEN_FDS"); n == "" {
		return nil, nil
	} else if _, err := fmt.Sscan(n, &count); err != nil || count < 0 {
		return nil, fmt.Errorf("LISTEN_FDS=%q: want the number of inherited sockets", n)
	}
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(v) // they are not for children
	}
	var out []net.Listener
	for i := range count {
		file := os.NewFile(uintptr(firstFD+i), "inherited")
		l, err := net.FileListener(file)
		file.Close()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("inherited socket %d: %w", i, err))
		}
		out = append(out, l)
	}
	return out, nil
}
