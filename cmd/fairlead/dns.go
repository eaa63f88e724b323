// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/dataplane/cluster"
	"github.com/fairlead/fairlead/dataplane/dns"
	"github.com/fairlead/fairlead/dataplane/dns/directory"
	"github.com/fairlead/fairlead/dataplane/dns/feed"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// newDNSCommand makes `fairlead dns`: the node's DNS server alone, for any Kubernetes cluster.
func newDNSCommand() *cobra.Command {
	var kubeconfig, corefile, configMap string
	var listen []string
	cfg := dns.Config{}
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Answer a cluster's DNS names, in place of its CoreDNS deployment",
		Long: `Answer a cluster's DNS names, in place of its CoreDNS deployment.

It needs to list and watch Services, EndpointSlices and Nodes. It follows the ConfigMap of --corefile-configmap, key Corefile, unless --corefile is given.
Search lists are walked for pods only by a node's agent, which knows its pods' addresses.`,
		Example: `  fairlead dns --port 53 --upstream 192.0.2.53`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Listen, err = parseAddrs(listen); err != nil {
				return err
			}
			if len(cfg.Upstreams) == 0 {
				cfg.Upstreams = hostResolvers(cfg.ResolvConf)
			}
			if corefile != "" {
				text, err := os.ReadFile(corefile)
				if err != nil {
					return err
				}
				cfg.Corefile = string(text)
			}
			namespace, name, ok := strings.Cut(configMap, "/")
			if !ok || namespace == "" || name == "" {
				return fmt.Errorf("--corefile-configmap %q: want NAMESPACE/NAME", configMap)
			}
			return runDNS(cmd.Context(), kubeconfig, cfg, namespace, name)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: KUBECONFIG, ~/.kube/config, the pod's service account)")
	f.StringVar(&corefile, "corefile", "", "file to use as Corefile (default: the ConfigMap, else one made from these flags)")
	f.StringVar(&configMap, "corefile-configmap", dns.ConfigMapNamespace+"/"+dns.ConfigMapName, "ConfigMap whose key Corefile is followed, NAMESPACE/NAME")
	f.StringVar(&cfg.Domain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringSliceVar(&listen, "listen", nil, "addresses to answer on (default: all)")
	f.IntVar(&cfg.Port, "port", 53, "port to answer on")
	f.StringSliceVar(&cfg.Upstreams, "upstream", nil, "servers for names outside the cluster (default: those of --resolv-conf)")
	f.StringVar(&cfg.ResolvConf, "resolv-conf", "/etc/resolv.conf", "file with the host's servers and search list")
	f.StringVar(&cfg.Metrics, "metrics", "", "ADDR:PORT for metrics (default: none)")
	f.DurationVar(&cfg.Lameduck, "lameduck", 0, "how long to answer on after being told to end")
	f.StringVar(&cfg.Socket, "socket", "", "unix socket for flctl (default: none)")
	return cmd
}

// runDNS takes the Corefile from the ConfigMap of that name unless cfg has one.
func runDNS(ctx context.Context, kubeconfig string, cfg dns.Config, namespace, name string) error {
	rest, err := restConfig(kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	t, err := tables.New(cluster.Filler)
	if err != nil {
		return err
	}
	cfg.Directory = directory.New()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cluster.Run(ctx, cluster.Config{Client: client, Tables: t}) })
	g.Go(func() error {
		return feed.Follow(ctx, t, true, func(b *directory.Batch) error { cfg.Directory.Apply(b); return nil })
	})
	if cfg.Corefile == "" {
		texts := make(chan string)
		cfg.Corefiles = texts
		g.Go(func() error {
			cluster.WatchConfigMap(ctx, client, namespace, name, dns.ConfigMapKey, texts)
			return nil
		})
	}
	g.Go(func() error { return dns.Run(ctx, cfg) })
	return g.Wait()
}
