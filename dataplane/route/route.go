// SPDX-License-Identifier: Apache-2.0

package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Mode says when the overlay is used.
type Mode string

// The modes.
const (
	Auto   Mode = "auto"   // native where nodes share a link, VXLAN elsewhere
	Native Mode = "native" // never VXLAN: the underlay routes pod addresses
	VXLAN  Mode = "vxlan"  // always VXLAN
)

// Config of a Router.
type Config struct {
	NodeName string
	Loader   *loader.Loader
	Tables   *tables.Tables
	// Uplinks are the devices towards the other nodes and the world. Empty: those that have one of the node's InternalIPs, or a default route.
	Uplinks []string
	Mode    Mode // empty: Auto
	// MTU of the pods' interfaces; 0: the smallest uplink's, less the tunnel's overhead in mode VXLAN.
	MTU int
	// NoMasquerade lets pods leave the cluster with their own addresses.
	NoMasquerade bool
	// MasqueradeExclude are destinations that pods reach with their own addresses although they are no part of the cluster.
	MasqueradeExclude []netip.Prefix
	VXLANPort         int    // 0: 4789
	VNI               uint32 // 0: 1
	// Constants are the node's .rodata that the pod network shares with the load balancer: loader.NodeConstants.
	Constants map[string]any
	// OnPodCIDRs is told the node's own pod CIDRs when they become known and when they change.
	OnPodCIDRs func([]netip.Prefix)
}

// Overhead of VXLAN in bytes by the family of the underlay: Ethernet 14, VXLAN 8, UDP 8, IP 20 or 40.
const (
	overhead4 = 50
	overhead6 = 70
)

// DeviceName is the VXLAN device. There is one per network namespace.
const DeviceName = "fl_vxlan"

// Protocol marks our kernel routes (rtm_protocol).
const Protocol = 178

// resync is the time after which reality is compared with the tables even if nothing changed.
const resync = 30 * time.Second

// Router keeps a node's routes.
type Router struct {
	cfg   Config
	coll  *ebpf.Collection
	vxlan int // ifindex, 0: none
	mtu   atomic.Int64
	cidrs []netip.Prefix

	attached map[int]bool // uplinks by ifindex
}

// New prepares the node: forwarding, the VXLAN device, programs. Forwarding to other nodes begins with Run.
func New(cfg Config) (*Router, error) {
	if cfg.Mode == "" {
		cfg.Mode = Auto
	}
	if cfg.Mode != Auto && cfg.Mode != Native && cfg.Mode != VXLAN {
		return nil, fmt.Errorf("routing mode %q is none of auto, native, vxlan", cfg.Mode)
	}
	if cfg.VXLANPort == 0 {
		cfg.VXLANPort = 4789
	}
	if cfg.VNI == 0 {
		cfg.VNI = 1
	}
	r := &Router{cfg: cfg, attached: map[int]bool{}}
	if err := enableForwarding(); err != nil {
		return nil, err
	}
	if cfg.Mode == Native {
		if err := removeVXLAN(); err != nil {
			return nil, err
		}
	} else {
		var err error
		if r.vxlan, err = ensureVXLAN(cfg.VXLANPort); err != nil {
			return nil, err
		}
	}
	spec, err := loader.LoadNet()
	if err != nil {
		return nil, err
	}
	if r.coll, err = cfg.Loader.Load(spec, r.Constants()); err != nil {
		return nil, err
	}
	if r.vxlan != 0 {
		if err := r.attach(r.vxlan, "from_overlay", "to_overlay"); err != nil {
			r.coll.Close()
			return nil, err
		}
	}
	r.mtu.Store(int64(cfg.MTU))
	return r, nil
}

// Close gives up the router's handles. The datapath stays.
func (r *Router) Close() { r.coll.Close() }

// Constants are the .rodata of every program of the pod network on this node.
func (r *Router) Constants() map[string]any {
	c := maps.Clone(r.cfg.Constants)
	if c == nil {
		c = map[string]any{}
	}
	c["cfg_vxlan_ifindex"], c["cfg_vni"] = uint32(r.vxlan), r.cfg.VNI
	return c
}

// MTU returns the MTU that pods get now; 1500 less the tunnel's overhead until an uplink is known.
func (r *Router) MTU() int {
	if m := r.mtu.Load(); m > 0 {
		return int(m)
	}
	return 1500 - overhead6
}

// attach puts a pair of programs on a device, under names that do not change with the ifindex.
func (r *Router) attach(ifindex int, ingress, egress string) error {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return err
	}
	name := l.Attrs().Name
	if err := r.cfg.Loader.AttachTCX(r.coll.Programs[ingress], ifindex, ebpf.AttachTCXIngress, "net-"+name+"-in"); err != nil {
		return err
	}
	return r.cfg.Loader.AttachTCX(r.coll.Programs[egress], ifindex, ebpf.AttachTCXEgress, "net-"+name+"-out")
}

// Run keeps routes and maps as the tables say until ctx ends. The datapath stays as it is then.
func (r *Router) Run(ctx context.Context) error {
	log := klog.FromContext(ctx)
	changed := make(chan struct{}, 1)
	stop, err := watchKernel(ctx, changed)
	if err != nil {
		return err
	}
	defer stop()
	backoff := time.Duration(0)
	for {
		txn := r.cfg.Tables.DB.ReadTxn()
		_, watch := r.cfg.Tables.Nodes.AllWatch(txn)
		err := r.reconcile(ctx)
		next := resync
		if err != nil {
			backoff = min(max(2*backoff, 100*time.Millisecond), 10*time.Second)
			next = backoff
			log.Error(err, "Pod routes are not as they should be", "retryIn", next)
		} else {
			backoff = 0
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-watch:
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		// Nodes come in bursts, addresses too: one pass for many changes.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reconcile compares everything once.
func (r *Router) reconcile(ctx context.Context) error {
	txn := r.cfg.Tables.DB.ReadTxn()
	var nodes []*tables.Node
	for n := range r.cfg.Tables.Nodes.All(txn) {
		nodes = append(nodes, n)
	}
	initialized, _ := r.cfg.Tables.Nodes.Initialized(txn)
	self, _, known := r.cfg.Tables.Nodes.Get(txn, tables.NodeByName.Query(r.cfg.NodeName))
	if !known {
		return nil // until the node is registered there is nothing to route
	}
	uplinks, err := findUplinks(r.cfg.Uplinks, self.InternalIPs)
	if err != nil {
		return err
	}
	var errs []error
	for _, u := range uplinks {
		if !r.attached[u.index] {
			err := r.attach(u.index, "from_net", "to_net")
			errs = append(errs, err)
			r.attached[u.index] = err == nil
		}
	}
	r.setMTU(uplinks)
	w := &world{cfg: &r.cfg, self: self, uplinks: uplinks, vxlan: r.vxlan, onLink: onLink}
	want := w.desired(nodes)
	errs = append(errs, r.nodeAddresses(self.PodCIDRs))
	if !slices.Equal(self.PodCIDRs, r.cidrs) && len(self.PodCIDRs) > 0 {
		r.cidrs = slices.Clone(self.PodCIDRs)
		if r.cfg.OnPodCIDRs != nil {
			r.cfg.OnPodCIDRs(r.cidrs)
		}
	}
	// The ipcache comes first: a route into the tunnel without a tunnel's end would only drop.
	errs = append(errs, r.syncIPCache(want.ipcache, initialized), r.syncUplinks(want.masquerade), syncRoutes(want.routes, initialized), ctx.Err())
	return errors.Join(errs...)
}

func (r *Router) setMTU(uplinks []uplink) {
	if r.cfg.MTU > 0 {
		return
	}
	mtu := 0
	for _, u := range uplinks {
		if mtu == 0 || u.mtu < mtu {
			mtu = u.mtu
		}
	}
	if mtu > 0 && r.cfg.Mode == VXLAN {
		mtu -= overheadOf(uplinks)
	}
	if mtu >= 576 {
		r.mtu.Store(int64(mtu))
	}
}

// overheadOf is the tunnel's overhead over these uplinks: IPv6's if one of them has no IPv4 address.
func overheadOf(uplinks []uplink) int {
	for _, u := range uplinks {
		if !slices.ContainsFunc(u.addrs, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
			return overhead6
		}
	}
	return overhead4
}

// watchKernel sends to changed when a device, an address or somebody else's route changes.
func watchKernel(ctx context.Context, changed chan<- struct{}) (stop func(), err error) {
	done := make(chan struct{})
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	lost := func(err error) { poke() } // e.g. ENOBUFS: look at everything again
	links, addrs, routes := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: lost}); err != nil {
		return nil, fmt.Errorf("watch devices: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: lost}); err != nil {
		close(done)
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: lost}); err != nil {
		close(done)
		return nil, fmt.Errorf("watch routes: %w", err)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for links != nil || addrs != nil || routes != nil {
			select {
			case u, ok := <-links:
				if !ok {
					links = nil
				} else if u.Link != nil && u.Link.Type() != "veth" && u.Link.Type() != "netkit" {
					poke()
				} else if u.Link != nil && u.Header.Type == unix.RTM_NEWLINK && u.Link.Attrs().MasterIndex == 0 && !isPodLink(u.Link.Attrs().Name) {
					poke()
				}
			case u, ok := <-addrs:
				if !ok {
					addrs = nil
				} else if u.LinkAddress.IP != nil {
					poke()
				}
			case u, ok := <-routes:
				if !ok {
					routes = nil
				} else if u.Protocol != 179 && u.Protocol != unix.RTPROT_KERNEL && (u.Type == unix.RTM_DELROUTE || u.Protocol != Protocol) {
					poke()
				}
			}
		}
	}()
	return func() { close(done); <-finished }, nil
}

// isPodLink says whether a device is one of our pods' host sides: those come and go all day and carry no address.
func isPodLink(name string) bool { return len(name) == 14 && name[:2] == "fl" }
