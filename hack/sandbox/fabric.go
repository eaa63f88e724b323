// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bridgeOf is the fabric's bridge that carries h's link.
func bridgeOf(h Host) string { return fmt.Sprintf("br%d", h.Subnet) }

// wire joins every host to the fabric: eth0 inside, a port named after the host on the fabric's side. Both ends are created inside their
// namespaces; the machine's own namespace never sees them.
func wire(t Topology, inits map[string]int) error {
	fabric, err := netlinkIn(inits["fabric"])
	if err != nil {
		return err
	}
	defer fabric.Close()
	for _, h := range t.Hosts {
		if h.Role == RoleFabric {
			continue
		}
		if err := wireHost(h, fabric, inits[h.Name]); err != nil {
			return fmt.Errorf("link of %s: %w", h.Name, err)
		}
	}
	return inNamespace(inits["fabric"], func() error {
		for _, sysctl := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			if err := os.WriteFile(sysctl, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		for _, h := range t.Hosts {
			if h.Role == RoleFabric {
				continue
			}
			if err := enableGRO(h.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

func wireHost(h Host, fabric *netlink.Handle, pid int) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: h.Name, MTU: 1500, TxQLen: 1000},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsPid(pid),
	}
	if err := fabric.LinkAdd(veth); err != nil {
		return err
	}
	port, err := fabric.LinkByName(h.Name)
	if err != nil {
		return err
	}
	bridge, err := ensureBridge(fabric, h)
	if err != nil {
		return err
	}
	if err := fabric.LinkSetMaster(port, bridge); err != nil {
		return err
	}
	if err := fabric.LinkSetUp(port); err != nil {
		return err
	}
	host, err := netlinkIn(pid)
	if err != nil {
		return err
	}
	defer host.Close()
	eth0, err := host.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, p := range h.Prefixes() {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := host.AddrAdd(eth0, addr); err != nil {
			return err
		}
	}
	if err := host.LinkSetUp(eth0); err != nil {
		return err
	}
	for _, a := range h.Addrs() {
		route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: h.Gateway(a).AsSlice()}
		if err := host.RouteAdd(route); err != nil {
			return fmt.Errorf("default route: %w", err)
		}
	}
	return nil
}

// ensureBridge returns the bridge of h's link; it carries the fabric's own address on that link.
func ensureBridge(fabric *netlink.Handle, h Host) (netlink.Link, error) {
	name := bridgeOf(h)
	if l, err := fabric.LinkByName(name); err == nil {
		return l, nil
	}
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1500}}
	if err := fabric.LinkAdd(br); err != nil {
		return nil, err
	}
	for _, a := range h.Addrs() {
		gw := netip.PrefixFrom(h.Gateway(a), linkBits(a))
		addr := &netlink.Addr{IPNet: ipNet(gw)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := fabric.AddrAdd(br, addr); err != nil {
			return nil, err
		}
	}
	return br, fabric.LinkSetUp(br)
}

// routePools sends the load-balancer pools to the nodes, as a router in front of a cluster does: the client itself where the nodes are on its link,
// else the fabric, which is the client's router.
func routePools(t Topology, inits map[string]int) error {
	router := inits["client"]
	if t.Routed {
		router = inits["fabric"]
	}
	h, err := netlinkIn(router)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, pool := range LoadBalancerPools {
		dst := netip.MustParsePrefix(pool)
		var hops []*netlink.NexthopInfo
		for _, n := range t.Nodes() {
			via := n.IPv4
			if dst.Addr().Is6() {
				via = n.IPv6
			}
			if !via.IsValid() {
				continue
			}
			device := "eth0"
			if t.Routed {
				device = bridgeOf(n)
			}
			l, err := h.LinkByName(device)
			if err != nil {
				return err
			}
			hops = append(hops, &netlink.NexthopInfo{LinkIndex: l.Attrs().Index, Gw: via.AsSlice()})
		}
		if len(hops) == 0 {
			continue // not a family of this sandbox
		}
		if err := h.RouteReplace(&netlink.Route{Dst: ipNet(dst), MultiPath: hops}); err != nil {
			return fmt.Errorf("route %s to the nodes: %w", pool, err)
		}
	}
	return nil
}

// setPort takes a host's port on the fabric up or down: a network partition and its end.
func setPort(fabricPid int, host string, up bool) error {
	h, err := netlinkIn(fabricPid)
	if err != nil {
		return err
	}
	defer h.Close()
	port, err := h.LinkByName(host)
	if err != nil {
		return err
	}
	if up {
		return h.LinkSetUp(port)
	}
	return h.LinkSetDown(port)
}

func netlinkIn(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
}

// inNamespace runs f on a thread inside the network namespace of pid; sockets and /proc/sys/net accesses of f are that namespace's.
func inNamespace(pid int, f func() error) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		// The thread is not unlocked: it ends with the goroutine instead of returning to the pool in a foreign namespace.
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// enableGRO switches generic receive offload on for dev. On a veth that enables the receive queue which native XDP on the other end needs for
// XDP_TX and redirects.
func enableGRO(dev string) error {
	const (
		siocEthtool = 0x8946
		ethtoolSGRO = 0x2c
	)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{ethtoolSGRO, 1}
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:], dev)
	ifr.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocEthtool, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
		return fmt.Errorf("switch receive offload of %s on: %w", dev, errno)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
