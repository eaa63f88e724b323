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

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/cmd/fairlead/memory"
	"github.com/fairlead/fairlead/controlplane/cloud"
	"github.com/fairlead/fairlead/controlplane/controllers"
	"github.com/fairlead/fairlead/controlplane/scheduler"
	"github.com/fairlead/fairlead/controlplane/server"
)

// serverOptions are the flags of `fairlead server`.
type serverOptions struct {
	node              nodeOptions
	loadBalancerPools []string
	controllers       []string
	schedulerConfig   string
	disableAgent      bool
	api               apiOptions
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
	f.StringSliceVar(&o.loadBalancerPools, "load-balancer-pool", nil, "CIDRs from which Services of type LoadBalancer get addresses")
	f.StringSliceVar(&o.controllers, "controllers", nil, `controllers to run: "*" all, NAME one, -NAME not that one`)
	f.StringVar(&o.schedulerConfig, "scheduler-config", "", "KubeSchedulerConfiguration file")
	f.BoolVar(&o.disableAgent, "disable-agent", false, "run the control plane only; no pods run on this host")
	o.api.register(f)
	return cmd
}

func (o *serverOptions) run(ctx context.Context) error {
	if _, err := cloud.NewPools(o.loadBalancerPools); err != nil {
		return err
	}
	name, err := o.node.nodeName()
	if err != nil {
		return err
	}
	o.api.config.Name, o.api.config.ClusterDomain = name, o.node.clusterDomain
	cfg, err := o.api.complete(o.node.dataDir, o.node.ips)
	if err != nil {
		return err
	}
	if cfg.Inherited, err = inheritedListeners(); err != nil {
		return err
	}
	cfg.OnReady = func(server.Env) { ready(ctx) }
	cfg.Idle = memory.GiveBack
	cfg.Components = []server.Component{
		{Name: "controllers", Run: o.runControllers},
		{Name: "scheduler", Run: o.runScheduler},
	}
	if !o.disableAgent {
		cfg.Components = append(cfg.Components, server.Component{Name: "agent", Run: o.runAgent}, server.Component{Name: "node-role", Run: o.keepRole})
	}
	return server.Run(ctx, cfg)
}

// runControllers runs the controllers, each as its service account, while this server holds their lease. Its name in the lease is the server's, so that a
// server that was killed goes on at once.
func (o *serverOptions) runControllers(ctx context.Context, env server.Env) error {
	settings, err := controllerSettings(env.Config, env.Keys.CAFile())
	if err != nil {
		return err
	}
	settings.LoadBalancerPools = o.loadBalancerPools
	return controllers.Run(ctx, controllers.Config{
		RESTConfig: env.ClientAs(user.KubeControllerManager), Controllers: o.controllers, Settings: settings,
		Account: func(account string) (*rest.Config, error) {
			return env.ClientAs(serviceaccount.MakeUsername(metav1.NamespaceSystem, account)), nil
		},
		LeaderElection: &controllers.LeaderElection{Name: controllersLease, Identity: env.Config.Name},
	})
}

func (o *serverOptions) runScheduler(ctx context.Context, env server.Env) error {
	return scheduler.Run(ctx, scheduler.Config{RESTConfig: env.ClientAs(user.KubeScheduler), Pods: env.Pods, ConfigFile: o.schedulerConfig, LeaderElection: true, Identity: env.Config.Name})
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

// keepRole shows this host's node as one of the control plane.
func (o *serverOptions) keepRole(ctx context.Context, env server.Env) error {
	name, err := o.node.nodeName()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(rest.CopyConfig(env.Client), "node-role"))
	if err != nil {
		return err
	}
	return server.KeepRole(ctx, client, name)
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
