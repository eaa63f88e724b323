// SPDX-License-Identifier: Apache-2.0

// Package podnet is the pod network as one component: it wires ipam (addresses), route (the way to other nodes and the world) and endpoint (the CNI plugin's server), and health (probes between nodes).
//
// The agent calls Run in the node's own network and mount namespace, with tables that dataplane/cluster fills. Pods can be connected once the tables hold
// the node itself with its pod CIDRs; OnReady tells when, and is where the agent writes the CNI configuration (cni/install). When Run returns, the datapath goes on without it:
// programs and maps are pinned below the loader's PinDir, routes and interfaces stay.
//
// What Run sets in its network namespace: forwarding of both families, per-device settings of its own devices, one device fl_vxlan unless the mode is native, the node's pod network
// address on lo, routes of protocol 178 (nodes) and 179 (pods).
package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/endpoint"
	"github.com/fairlead/fairlead/dataplane/health"
	"github.com/fairlead/fairlead/dataplane/ipam"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Config of a node's pod network.
type Config struct {
	NodeName string
	DataDir  string         // e.g. /var/lib/fairlead/agent
	RunDir   string         // e.g. /run/fairlead; the CNI socket is RunDir/cni.sock
	Loader   *loader.Loader // for the node's PinDir
	Tables   *tables.Tables
	// NodeIPs are this node's own addresses and PodCIDRs the cluster's pod networks, as the load balancer's Config has them: both share their programs' parts.
	NodeIPs  []netip.Addr
	PodCIDRs []netip.Prefix
	// Uplinks, Mode, MTU, NoMasquerade, MasqueradeExclude, VXLANPort, VNI: see route.Config.
	Uplinks           []string
	Mode              route.Mode
	MTU               int
	NoMasquerade      bool
	MasqueradeExclude []netip.Prefix
	VXLANPort         int
	VNI               uint32
	// Device is the kind of pair that new pods get; see endpoint.Config.
	Device endpoint.Device
	// Quarantine is how long a released address rests; see ipam.Config.
	Quarantine time.Duration
	// Sandboxes lists the runtime's pod sandboxes by container ID, for the sweep; see endpoint.Config. May be nil.
	Sandboxes     func(context.Context) (map[string]bool, error)
	SweepInterval time.Duration
	// OnExhausted is told, at most once a minute, that a pod was refused because the node's range is full: the agent makes an event of it. May be nil; must not block.
	OnExhausted func(error)
	// ProbeInterval is the time between two probes of the other nodes; see package health. 0: 10 s.
	ProbeInterval time.Duration
	// Registerer gets the pod network's metrics. May be nil.
	Registerer prometheus.Registerer
	// OnStep is told each step of an ADD and a DEL; see endpoint.Config. May be nil.
	OnStep func(endpoint.Step)
	// OnReady is called once, when the first pod could be connected. May be nil.
	OnReady func()
}

// Socket is where the CNI plugin finds the agent.
func (c *Config) Socket() string { return filepath.Join(c.RunDir, "cni.sock") }

// QueueDir is where the CNI plugin leaves deletions while the agent is down.
func (c *Config) QueueDir() string { return filepath.Join(c.DataDir, "cni-deletions") }

// Run keeps the node's pod network until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	log := klog.FromContext(ctx)
	if cfg.Registerer != nil {
		for _, c := range append(endpoint.Metrics(), health.Metrics()...) {
			if err := cfg.Registerer.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
				return err
			}
		}
	}
	pool, err := ipam.Open(ipam.Config{Path: filepath.Join(cfg.DataDir, "addresses.log"), Quarantine: cfg.Quarantine})
	if err != nil {
		return err
	}
	defer pool.Close()
	listening, addressed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	router, err := route.New(route.Config{
		NodeName: cfg.NodeName, Loader: cfg.Loader, Tables: cfg.Tables, Uplinks: cfg.Uplinks, Mode: cfg.Mode, MTU: cfg.MTU,
		NoMasquerade: cfg.NoMasquerade, MasqueradeExclude: cfg.MasqueradeExclude, VXLANPort: cfg.VXLANPort, VNI: cfg.VNI,
		Constants: loader.NodeConstants(loader.NodeFacts{NodeIPs: cfg.NodeIPs, PodCIDRs: cfg.PodCIDRs}),
		OnPodCIDRs: func(cidrs []netip.Prefix) {
			if err := pool.SetCIDRs(cidrs); err != nil {
				log.Error(err, "Pods cannot have addresses from the node's pod CIDRs", "podCIDRs", cidrs)
				return
			}
			log.Info("Pods get addresses", "podCIDRs", cidrs)
			once.Do(func() { close(addressed) })
		},
	})
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	defer router.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return router.Run(ctx) })
	g.Go(func() error {
		return endpoint.Run(ctx, endpoint.Config{
			Socket: cfg.Socket(), DataDir: cfg.DataDir, QueueDir: cfg.QueueDir(), Loader: cfg.Loader, Tables: cfg.Tables, Pool: pool,
			Constants: router.Constants(), MTU: router.MTU, Device: cfg.Device, Sandboxes: cfg.Sandboxes, SweepInterval: cfg.SweepInterval,
			OnExhausted: cfg.OnExhausted, OnStep: cfg.OnStep,
			OnListening: func() { close(listening) },
		})
	})
	g.Go(func() error {
		return health.Run(ctx, health.Config{NodeName: cfg.NodeName, RunDir: cfg.RunDir, Tables: cfg.Tables, Interval: cfg.ProbeInterval})
	})
	g.Go(func() error {
		for _, c := range []chan struct{}{listening, addressed} {
			select {
			case <-c:
			case <-ctx.Done():
				return nil
			}
		}
		if cfg.OnReady != nil {
			cfg.OnReady()
		}
		return nil
	})
	return g.Wait()
}
