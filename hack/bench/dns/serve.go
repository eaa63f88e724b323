// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/coredns/caddy"
	_ "github.com/coredns/coredns/plugin/kubernetes" // the other server
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/dataplane/cluster"
	"github.com/fairlead/fairlead/dataplane/dns"
	"github.com/fairlead/fairlead/dataplane/dns/directory"
	"github.com/fairlead/fairlead/dataplane/dns/feed"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// serve is the child process.
func serve(ctx context.Context, o options) error {
	if o.child == "coredns" {
		return coreDNS(ctx, o)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: o.api})
	if err != nil {
		return err
	}
	t, err := tables.New(cluster.Filler)
	if err != nil {
		return err
	}
	w := t.DB.WriteTxn(t.LocalPods)
	if _, _, err := t.LocalPods.Insert(w, &tables.LocalPod{ID: "client", Namespace: "ns-0", Name: "client", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}); err != nil {
		return err
	}
	w.Commit()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cluster.Run(ctx, cluster.Config{Client: client, Tables: t}) })
	d := directory.New()
	g.Go(func() error {
		return feed.Follow(ctx, t, false, func(b *directory.Batch) error { d.Apply(b); return nil })
	})
	g.Go(func() error {
		return dns.Run(ctx, dns.Config{Directory: d, Domain: "cluster.local", Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: o.port, Upstreams: []string{o.upstream}, ResolvConf: "/dev/null"})
	})
	return g.Wait()
}

// coreDNS serves with the Corefile that Kubernetes installers write, without metrics and health.
func coreDNS(ctx context.Context, o options) error {
	caddy.Quiet = true
	i, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", ServerTypeName: "dns", Contents: fmt.Appendf(nil, `.:%d {
    bind 127.0.0.1
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        endpoint %s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    forward . %s
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    loadbalance
}
`, o.port, o.api, o.upstream)})
	if err != nil {
		return err
	}
	<-ctx.Done()
	i.ShutdownCallbacks()
	return i.Stop()
}
