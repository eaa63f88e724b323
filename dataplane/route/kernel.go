// SPDX-License-Identifier: Apache-2.0

package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/ipam"
	"github.com/fairlead/fairlead/dataplane/sysctl"
)

// enableForwarding sets what the whole network namespace needs. Devices that take router advertisements go on taking them, which forwarding would otherwise stop.
func enableForwarding() error {
	devs, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range devs {
		if v, err := os.ReadFile(path); err == nil && len(v) > 0 && v[0] == '1' {
			dev := filepath.Base(filepath.Dir(path))
			if dev == "all" || dev == "default" || dev == "lo" {
				continue
			}
			if err := sysctl.Set("net/ipv6/conf/"+dev+"/accept_ra", "2"); err != nil {
				return fmt.Errorf("keep router advertisements: %w", err)
			}
		}
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := sysctl.Ensure(key, "1"); err != nil && !errors.Is(err, os.ErrNotExist) { // there are kernels without IPv6
			return fmt.Errorf("enable forwarding: %w", err)
		}
	}
	return nil
}

// ensureVXLAN returns the ifindex of the node's VXLAN device, making it where it is missing or different.
func ensureVXLAN(port int) (int, error) {
	l, err := netlink.LinkByName(DeviceName)
	if err == nil {
		v, ok := l.(*netlink.Vxlan)
		if ok && v.FlowBased && v.Port == port {
			return v.Index, netlink.LinkSetUp(l)
		}
		if err := netlink.LinkDel(l); err != nil {
			return 0, fmt.Errorf("replace %s: %w", DeviceName, err)
		}
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, fmt.Errorf("look for %s: %w", DeviceName, err)
	}
	v := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: DeviceName, MTU: 65485}, FlowBased: true, Port: port, Learning: false, UDP6ZeroCSumRx: true}
	if err := netlink.LinkAdd(v); err != nil {
		return 0, fmt.Errorf("make the VXLAN device %s: %w", DeviceName, err)
	}
	if l, err = netlink.LinkByName(DeviceName); err != nil {
		return 0, err
	}
	// No link-local address: nothing on the overlay is to be discovered or joined.
	for _, s := range [][2]string{{"ipv4/conf/" + DeviceName + "/rp_filter", "0"}, {"ipv6/conf/" + DeviceName + "/accept_ra", "0"}, {"ipv6/conf/" + DeviceName + "/addr_gen_mode", "1"}} {
		if err := sysctl.Set("net/"+s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	// Nobody answers ARP on the overlay: a neighbour's MAC is of no use there.
	if err := netlink.LinkSetARPOff(l); err != nil {
		return 0, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return 0, fmt.Errorf("set %s up: %w", DeviceName, err)
	}
	return l.Attrs().Index, nil
}

func removeVXLAN() error {
	l, err := netlink.LinkByName(DeviceName)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

// Accept has the node take packets to addrs, which no device of it has, as its own: a process that is bound to one of them answers under it. Other addresses that it was told of before it
// gives up.
func Accept(addrs []netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	have, err := accepted()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range have {
		if p, ok := prefixOf(r.Dst); !ok || !slices.Contains(addrs, p.Addr()) {
			errs = append(errs, drop(&r))
		}
	}
	for _, a := range addrs {
		r := &netlink.Route{
			Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, LinkIndex: lo.Attrs().Index, Protocol: Protocol,
		}
		if a.Is4() {
			r.Scope = netlink.SCOPE_HOST
		}
		if err := netlink.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("accept packets to %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// accepted lists the routes that Accept made.
func accepted() (out []netlink.Route, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: Protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return nil, fmt.Errorf("list the addresses accepted so far: %w", err)
		}
		out = append(out, routes...)
	}
	return out, nil
}

// drop removes a route; one that is gone is no error.
func drop(r *netlink.Route) error {
	if err := netlink.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route %s: %w", r, err)
	}
	return nil
}

// Uninstall removes our routes, the node's addresses in the pod network, those that Accept was told of, and the VXLAN device.
func Uninstall() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: Protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		errs = append(errs, err)
		for _, r := range routes {
			// The node's own ranges are the unreachable ones.
			if p, ok := prefixOf(r.Dst); ok && r.Type == unix.RTN_UNREACHABLE {
				a := ipam.NodeAddr(p)
				err := netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}})
				if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
					errs = append(errs, err)
				}
			}
			errs = append(errs, drop(&r))
		}
	}
	errs = append(errs, Accept(nil))
	return errors.Join(append(errs, removeVXLAN())...)
}

// findUplinks returns the named devices, or those that have one of the node's addresses or a default route.
func findUplinks(names []string, nodeIPs []netip.Addr) ([]uplink, error) {
	links, err := netlink.LinkList()
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ { // a device came or went meanwhile
		links, err = netlink.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	defaults := map[int]bool{}
	if len(names) == 0 {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
			for _, r := range routes {
				if r.Dst == nil || r.Dst.IP.IsUnspecified() {
					defaults[r.LinkIndex] = true
					for _, h := range r.MultiPath {
						defaults[h.LinkIndex] = true
					}
				}
			}
		}
	}
	var out []uplink
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.Name == DeviceName || isPodLink(a.Name) {
			continue
		}
		u := uplink{index: a.Index, name: a.Name, mtu: a.MTU}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		has := defaults[a.Index]
		for _, x := range addrs {
			ip, ok := netip.AddrFromSlice(x.IP)
			if !ok || x.Scope == unix.RT_SCOPE_LINK {
				continue
			}
			ones, _ := x.Mask.Size()
			u.addrs = append(u.addrs, netip.PrefixFrom(ip.Unmap(), ones))
			has = has || contains(nodeIPs, ip.Unmap())
		}
		if len(names) > 0 {
			has = slices.Contains(names, a.Name)
		}
		if has {
			out = append(out, u)
		}
	}
	if len(out) < len(names) {
		return nil, fmt.Errorf("of the uplinks %v only %d exist", names, len(out))
	}
	return out, nil
}

// onLink says whether the kernel reaches a without a gateway.
func onLink(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return false
	}
	r := routes[0]
	return r.Gw == nil && r.Via == nil && r.Type == unix.RTN_UNICAST && len(r.MultiPath) == 0 && r.LinkIndex != 0
}

// nodeAddresses gives the node its own address in the pod network, on the loopback device: it answers probes there, and it is the source of the node's packets in the overlay.
func (r *Router) nodeAddresses(cidrs []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	have, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	var errs []error
	if lo.Attrs().Flags&net.FlagUp == 0 {
		errs = append(errs, netlink.LinkSetUp(lo))
	}
	want := map[netip.Addr]bool{}
	for _, c := range cidrs {
		a := ipam.NodeAddr(c)
		want[a] = true
		if slices.ContainsFunc(have, func(x netlink.Addr) bool { return x.IP.Equal(a.AsSlice()) }) {
			continue
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Label: "", Flags: 0}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(lo, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("give the node its pod network address %s: %w", a, err))
		}
	}
	for _, old := range r.cidrs {
		if a := ipam.NodeAddr(old); !want[a] {
			err := netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}})
			if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// syncRoutes makes our routes in the main table equal to want. Without prune it only adds.
func syncRoutes(want map[netip.Prefix]hop, prune bool) error {
	var errs []error
	have := map[netip.Prefix]hop{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: Protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("list our routes: %w", err)
		}
		for _, x := range routes {
			p, ok := prefixOf(x.Dst)
			if !ok {
				continue
			}
			h := hop{unreachable: x.Type == unix.RTN_UNREACHABLE, mtu: x.MTU}
			if !h.unreachable {
				h.dev = x.LinkIndex
				h.via, _ = netip.AddrFromSlice(x.Gw)
				h.via = h.via.Unmap()
				h.src, _ = netip.AddrFromSlice(x.Src)
				h.src = h.src.Unmap()
			}
			have[p] = h
		}
	}
	for p, h := range want {
		got, ok := have[p]
		if h.dev == 0 {
			got.dev = 0 // the kernel chose it
		}
		if ok && got == h {
			continue
		}
		if err := netlink.RouteReplace(routeOf(p, h)); err != nil {
			errs = append(errs, fmt.Errorf("add route to %s: %w", p, err))
		}
	}
	if !prune {
		return errors.Join(errs...)
	}
	for p, h := range have {
		if _, ok := want[p]; ok {
			continue
		}
		if err := netlink.RouteDel(routeOf(p, h)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func routeOf(p netip.Prefix, h hop) *netlink.Route {
	r := &netlink.Route{
		Dst:      &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Table:    unix.RT_TABLE_MAIN,
		Protocol: Protocol, LinkIndex: h.dev, MTU: h.mtu,
	}
	if h.unreachable {
		r.Type = unix.RTN_UNREACHABLE
		return r
	}
	if h.via.IsValid() {
		r.Gw = h.via.AsSlice()
	} else if p.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	r.MTULock = h.mtu > 0 // for forwarded packets the kernel, and the fib lookup of eBPF, heed a route's MTU only when it is locked
	if h.src.IsValid() {
		r.Src = h.src.AsSlice()
	}
	return r
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}
