// SPDX-License-Identifier: Apache-2.0

// Package network is a node's whole dataplane as one component.
//
//	Kubernetes API --> cluster --> tables --+--> loadbalancer (Services)
//	                                        +--> podnet       (pods, with the CNI plugin's server)
//	                                        +--> dns          (cluster names)
//
// The agent runs it beside the kubelet; `fairlead dataplane` runs it alone on any other cluster, with or without the pod network and DNS. It works in
// the calling process's network namespace. When Run returns, or the process is killed, forwarding goes on from the pinned maps and programs.
package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/cni/install"
	"github.com/fairlead/fairlead/dataplane/cluster"
	"github.com/fairlead/fairlead/dataplane/dns"
	"github.com/fairlead/fairlead/dataplane/dns/link"
	"github.com/fairlead/fairlead/dataplane/endpoint"
	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Config of a node's dataplane.
type Config struct {
	Client   kubernetes.Interface
	NodeName string
	NodeIPs  []netip.Addr // at most one per family; empty: those of the Node object
	DataDir  string       // what survives a reboot
	RunDir   string       // sockets
	PinDir   string       // on a bpffs; empty: loader.DefaultPinDir
	// CgroupRoot is the cgroup2 directory whose processes get the socket hooks.
	CgroupRoot string
	// Uplinks are the devices towards the other nodes and the world; empty: those that have one of NodeIPs.
	Uplinks []string
	XDP     string // see loadbalancer.Config
	// LBMode and LBDispatch are Mode and Dispatch of loadbalancer.Config.
	LBMode     loadbalancer.Mode
	LBDispatch loadbalancer.Dispatch
	// ClusterCIDRs are the cluster's pod networks.
	ClusterCIDRs []netip.Prefix

	// PodNetwork connects pods; without it another CNI plugin does, and only Services are programmed.
	PodNetwork bool
	Mode       route.Mode
	PodDevice  endpoint.Device // see podnet.Config
	// Sandboxes lists the runtime's pod sandboxes, see podnet.Config. May be nil.
	Sandboxes func(context.Context) (map[string]bool, error)
	// CNI says where plugin and configuration are installed once pods can be connected.
	CNI install.Options

	// DNS are the settings of the node's server of cluster names; with no Domain there is none. Listen, Service and Control are filled in.
	DNS link.Settings
	// ClusterDNS are the addresses of the cluster DNS Service, at which the server answers, too.
	ClusterDNS []netip.Addr

	Registerer prometheus.Registerer
}

// Run keeps the dataplane until ctx ends or a part of it fails.
func Run(ctx context.Context, cfg Config) error {
	l, err := loader.Open(loader.Config{PinDir: cfg.PinDir})
	if err != nil {
		return err
	}
	t, err := tables.New(cluster.Filler)
	if err != nil {
		return err
	}
	if len(cfg.Uplinks) == 0 {
		if cfg.Uplinks, err = devicesOf(cfg.NodeIPs); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cluster.Run(ctx, cluster.Config{Client: cfg.Client, Tables: t}) })
	events := newServiceEvents(cfg.Client, t, cfg.NodeName)
	g.Go(func() error { return events.run(ctx) })
	var replaced sync.WaitGroup // the programs of an earlier release
	replaced.Add(1)
	g.Go(func() error {
		lb := cfg.loadBalancer(l, t)
		lb.OnServiceError, lb.OnSynced = events.report, replaced.Done
		return named("load balancer", loadbalancer.Run(ctx, lb))
	})
	if cfg.PodNetwork {
		replaced.Add(1)
		g.Go(func() error { return named("pod network", runPodNetwork(ctx, cfg, l, t, replaced.Done)) })
	}
	go func() { // not waited for: a part that fails never says that it is done
		replaced.Wait()
		if err := l.Settle(); err != nil {
			klog.FromContext(ctx).Error(err, "Carry connections over from an earlier release")
		}
	}()
	if cfg.DNS.Domain != "" {
		corefiles := make(chan string)
		g.Go(func() error {
			cluster.WatchConfigMap(ctx, cfg.Client, dns.ConfigMapNamespace, dns.ConfigMapName, dns.ConfigMapKey, corefiles)
			return nil
		})
		g.Go(func() error { return named("DNS", cfg.keepDNS(ctx, t, corefiles)) })
	}
	return g.Wait()
}

func (cfg Config) loadBalancer(l *loader.Loader, t *tables.Tables) loadbalancer.Config {
	lb := loadbalancer.Config{
		Tables: t, Loader: l, NodeName: cfg.NodeName, CgroupRoot: cfg.CgroupRoot, Uplinks: cfg.Uplinks, XDP: cfg.XDP,
		Mode: cfg.LBMode, Dispatch: cfg.LBDispatch,
		NodeIPs: cfg.NodeIPs, PodCIDRs: cfg.ClusterCIDRs, StateDir: filepath.Join(cfg.DataDir, "loadbalancer"), Registerer: cfg.Registerer,
	}
	if cfg.PodNetwork && cfg.Mode != route.Native {
		lb.Overlay = route.DeviceName
	}
	return lb
}

// runPodNetwork runs the pod network and, from the moment it can connect pods, which it tells, keeps the CNI plugin installed.
func runPodNetwork(ctx context.Context, cfg Config, l *loader.Loader, t *tables.Tables, canConnect func()) error {
	ready := make(chan struct{})
	events := newNodeEvents(ctx, cfg.Client, cfg.NodeName)
	defer events.stop()
	pods := podnet.Config{
		NodeName: cfg.NodeName, DataDir: cfg.DataDir, RunDir: cfg.RunDir, Loader: l, Tables: t, Uplinks: cfg.Uplinks, Mode: cfg.Mode, Device: cfg.PodDevice,
		NodeIPs: cfg.NodeIPs, PodCIDRs: cfg.ClusterCIDRs, Registerer: cfg.Registerer,
		Sandboxes: cfg.Sandboxes, OnExhausted: events.exhausted, OnReady: func() { close(ready) },
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return podnet.Run(ctx, pods) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
		}
		canConnect()
		options := cfg.CNI
		options.Socket, options.QueueDir = pods.Socket(), pods.QueueDir()
		return install.Keep(klog.NewContext(ctx, klog.FromContext(ctx)), options)
	})
	return g.Wait()
}

// devicesOf returns the devices that have one of addrs.
func devicesOf(addrs []netip.Addr) ([]string, error) {
	links, err := netlink.LinkList()
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ { // pods' devices come and go
		links, err = netlink.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	var out []string
	for _, l := range links {
		have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", l.Attrs().Name, err)
		}
		if hasAny(have, addrs) {
			out = append(out, l.Attrs().Name)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no network device has one of the node's addresses %v; give the node's addresses or the uplink devices", addrs)
	}
	return out, nil
}

func hasAny(have []netlink.Addr, want []netip.Addr) bool {
	for _, h := range have {
		ip, ok := netip.AddrFromSlice(h.IP)
		for _, w := range want {
			if ok && ip.Unmap() == w {
				return true
			}
		}
	}
	return false
}

func named(part string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}
