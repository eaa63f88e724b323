// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/sysctl"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// The pods' gateways: link-local addresses that nobody has. Pods reach them by a permanent neighbour entry with the host side's MAC.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
)

func gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return gateway4
	}
	return gateway6
}

func hostNet(a netip.Addr) net.IPNet {
	return net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func defaultNet(a netip.Addr) net.IPNet {
	zero := netip.IPv6Unspecified()
	if a.Is4() {
		zero = netip.IPv4Unspecified()
	}
	return net.IPNet{IP: zero.AsSlice(), Mask: net.CIDRMask(0, a.BitLen())}
}

// makePair makes the pod's pair, both ends down: the outer one here, the inner one in ns at once, since moving it there would wait for an RCU barrier. It returns the outer end's ifindex.
func makePair(pod *tables.LocalPod, ns *os.File, mtu int) (int, error) {
	outer := netlink.LinkAttrs{Name: pod.HostIf, MTU: mtu, HardwareAddr: pod.HostMAC[:]}
	var pair netlink.Link = &netlink.Veth{
		LinkAttrs: outer,
		PeerName:  pod.IfName, PeerHardwareAddr: pod.MAC[:], PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(ns.Fd()),
	}
	if pod.Netkit {
		pair = netkitPair(outer, netlink.LinkAttrs{Name: pod.IfName, MTU: mtu, HardwareAddr: pod.MAC[:], Namespace: netlink.NsFd(ns.Fd())})
	}
	err := netlink.LinkAdd(pair)
	if errors.Is(err, unix.EEXIST) { // not the outer end: its name is random
		return 0, types.NewError(types.ErrInvalidEnvironmentVariables, "the container already has an interface "+pod.IfName, err.Error())
	}
	if err == nil && pair.Attrs().Index == 0 {
		err = errors.New("it is not there")
	}
	if err != nil {
		return 0, fmt.Errorf("make the %s pair %s: %w", pair.Type(), pod.HostIf, err)
	}
	return pair.Attrs().Index, nil
}

// configureHost sets the outer end's per-device settings, it forwards and has no address that it would have to announce, and sets it up.
func configureHost(pod *tables.LocalPod) error {
	for _, s := range [][2]string{
		{"net/ipv4/conf/" + pod.HostIf + "/forwarding", "1"},
		{"net/ipv4/conf/" + pod.HostIf + "/rp_filter", "0"}, // the source is checked by from_pod
		{"net/ipv4/conf/" + pod.HostIf + "/send_redirects", "0"},
		{"net/ipv6/conf/" + pod.HostIf + "/accept_ra", "0"},
		{"net/ipv6/conf/" + pod.HostIf + "/addr_gen_mode", "1"}, // no link-local address: nobody would talk to it
		{"net/ipv6/conf/" + pod.HostIf + "/forwarding", "1"},
	} {
		if err := sysctl.Ensure(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	host := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: pod.IfIndex}}
	if err := netlink.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", pod.HostIf, err)
	}
	return nil
}

// configurePod gives the inner end its addresses, gateways and routes.
func configurePod(pod *tables.LocalPod, ns *os.File) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer h.Close()
	inner, err := h.LinkByName(pod.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the container: %w", pod.IfName, err)
	}
	for _, a := range pod.IPs {
		if !a.Is6() {
			continue
		}
		// Duplicate address detection would hold the address back for a second, on a link with nobody else on it.
		if err := inNamespace(ns, func() error {
			err := sysctl.Set("net/ipv6/conf/"+pod.IfName+"/disable_ipv6", "0")
			return errors.Join(err, sysctl.Set("net/ipv6/conf/"+pod.IfName+"/accept_dad", "0"), sysctl.Set("net/ipv6/conf/"+pod.IfName+"/accept_ra", "0"))
		}); err != nil {
			return err
		}
		break
	}
	if err := h.LinkSetUp(inner); err != nil {
		return fmt.Errorf("set %s up in the container: %w", pod.IfName, err)
	}
	index := inner.Attrs().Index
	for _, a := range pod.IPs {
		addr := hostNet(a)
		flags := 0
		if a.Is6() {
			flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(inner, &netlink.Addr{IPNet: &addr, Flags: flags}); err != nil {
			return fmt.Errorf("add %s to %s in the container: %w", a, pod.IfName, err)
		}
		gw := gateway(a)
		if a.Is4() {
			link := hostNet(gw)
			if err := h.RouteAdd(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: &link, Src: a.AsSlice()}); err != nil {
				return fmt.Errorf("add the container's route to %s: %w", gw, err)
			}
		}
		if err := h.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: gw.AsSlice(), HardwareAddr: pod.HostMAC[:]}); err != nil {
			return fmt.Errorf("add the container's neighbour %s: %w", gw, err)
		}
		all := defaultNet(a)
		if err := h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: &all, Gw: gw.AsSlice(), Src: a.AsSlice()}); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the container's default route by %s: %w", gw, err)
		}
	}
	return nil
}

// inNamespace runs f on a thread that is in ns. A thread that cannot be brought back is given up.
func inNamespace(ns *os.File, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // still locked: the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// removeLink deletes a device. Deleting an absent one returns nil.
func removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	var gone netlink.LinkNotFoundError
	if err == nil || errors.As(err, &gone) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("delete %s: %w", name, err)
}

// Uninstall deletes the host side of every pod of ours, and with it the pod's interface.
func Uninstall() error {
	links, err := netlink.LinkList()
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ {
		links, err = netlink.LinkList()
	}
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		if isOurs(l) {
			errs = append(errs, removeLink(l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}

// inspectVeth fills pod's MACs, host device and ifindex from the interface that the container has.
func inspectVeth(pod *tables.LocalPod, ns *os.File) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer h.Close()
	inner, err := h.LinkByName(pod.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the container: %w", pod.IfName, err)
	}
	if inner.Type() != "veth" || inner.Attrs().ParentIndex == 0 {
		return fmt.Errorf("%s is a %s device: only veth pairs have a host side to attach to", pod.IfName, inner.Type())
	}
	outer, err := netlink.LinkByIndex(inner.Attrs().ParentIndex)
	if err != nil {
		return fmt.Errorf("find the host side of %s: %w", pod.IfName, err)
	}
	if outer.Type() != "veth" || outer.Attrs().ParentIndex != inner.Attrs().Index {
		return fmt.Errorf("the host side of %s is not in the node's network namespace", pod.IfName)
	}
	copy(pod.MAC[:], inner.Attrs().HardwareAddr)
	copy(pod.HostMAC[:], outer.Attrs().HardwareAddr)
	pod.HostIf, pod.IfIndex = outer.Attrs().Name, outer.Attrs().Index
	return nil
}

// inspectPod compares the container's interface with pod.
func inspectPod(pod *tables.LocalPod, ns *os.File) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer h.Close()
	inner, err := h.LinkByName(pod.IfName)
	if err != nil {
		return fmt.Errorf("the container has no %s: %w", pod.IfName, err)
	}
	if inner.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down in the container", pod.IfName)
	}
	addrs, err := h.AddrList(inner, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range pod.IPs {
		if !slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return x.IP.Equal(a.AsSlice()) }) {
			return fmt.Errorf("%s lacks address %s in the container", pod.IfName, a)
		}
	}
	if pod.Chained {
		return nil
	}
	for _, a := range pod.IPs {
		family := netlink.FAMILY_V6
		if a.Is4() {
			family = netlink.FAMILY_V4
		}
		routes, err := h.RouteList(inner, family)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw.Equal(gateway(a).AsSlice()) }) {
			return fmt.Errorf("the container lacks its default route by %s", gateway(a))
		}
	}
	return nil
}
