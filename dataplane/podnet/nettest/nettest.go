// SPDX-License-Identifier: Apache-2.0

// Package nettest builds small networks of namespaces for tests and benchmarks of the pod network. Every namespace's name begins with Prefix and goes with the test.
package nettest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Prefix begins the name of every namespace made here.
const Prefix = "flp-"

// TB is the part of testing.TB that this package needs, so that benchmark programs can use it too.
type TB interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

var serial atomic.Uint32

// NS is a named network namespace.
type NS struct {
	Name string
	f    netns.NsHandle
}

// Path is where a CNI runtime finds the namespace.
func (n *NS) Path() string { return filepath.Join("/run/netns", n.Name) }

// NewNS makes a namespace with its loopback up. It goes with tb, or by Delete.
func NewNS(tb TB, what string) *NS {
	tb.Helper()
	n := &NS{Name: fmt.Sprintf("%s%d-%d-%s", Prefix, os.Getpid(), serial.Add(1), what)}
	onThread(func() {
		home, err := netns.Get()
		if err != nil {
			tb.Fatal(err)
		}
		defer home.Close()
		if n.f, err = netns.NewNamed(n.Name); err != nil {
			tb.Fatalf("make network namespace (root is needed): %v", err)
		}
		if lo, err := netlink.LinkByName("lo"); err == nil {
			netlink.LinkSetUp(lo)
		}
		if err := netns.Set(home); err != nil {
			panic(err) // the thread is of no use any more
		}
	})
	tb.Cleanup(n.Delete)
	return n
}

// Delete removes the namespace's name. Deleting twice is no error.
func (n *NS) Delete() {
	if n.f.IsOpen() {
		n.f.Close()
	}
	netns.DeleteNamed(n.Name)
}

// Do runs f on a thread inside the namespace and waits. Sockets made in f stay in the namespace.
func (n *NS) Do(f func()) {
	onThread(func() {
		home, err := netns.Get()
		if err != nil {
			panic(err)
		}
		defer home.Close()
		if err := netns.Set(n.f); err != nil {
			panic(fmt.Errorf("enter %s: %w", n.Name, err))
		}
		defer func() {
			if err := netns.Set(home); err != nil {
				panic(err)
			}
		}()
		f()
	})
}

// onThread runs f on a locked thread and passes a panic or Goexit of f on by ending it there first.
func onThread(f func()) {
	done := make(chan any, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ok := false
		defer func() {
			if !ok {
				if r := recover(); r != nil {
					done <- r
					return
				}
				done <- "goroutine ended"
			}
		}()
		f()
		ok = true
		done <- nil
	}()
	if r := <-done; r != nil {
		panic(r)
	}
}

// Netlink returns a handle inside the namespace, closed with tb.
func (n *NS) Netlink(tb TB) *netlink.Handle {
	tb.Helper()
	h, err := netlink.NewHandleAt(n.f, unix.NETLINK_ROUTE)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(h.Close)
	return h
}

// Connect makes a veth pair between a and b with the given device names and prefixes, both up.
func Connect(tb TB, a *NS, devA string, addrsA []string, b *NS, devB string, addrsB []string, mtu int) {
	tb.Helper()
	ha, hb := a.Netlink(tb), b.Netlink(tb)
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: devA, MTU: mtu}, PeerName: devB, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(b.f)}
	if err := ha.LinkAdd(v); err != nil {
		tb.Fatalf("veth %s to %s: %v", devA, devB, err)
	}
	for _, end := range []struct {
		h     *netlink.Handle
		dev   string
		addrs []string
	}{{ha, devA, addrsA}, {hb, devB, addrsB}} {
		l, err := end.h.LinkByName(end.dev)
		if err != nil {
			tb.Fatal(err)
		}
		for _, s := range end.addrs {
			p := netip.MustParsePrefix(s)
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
			if p.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := end.h.AddrAdd(l, addr); err != nil {
				tb.Fatalf("%s on %s: %v", s, end.dev, err)
			}
		}
		if err := end.h.LinkSetUp(l); err != nil {
			tb.Fatal(err)
		}
	}
}

// Route adds a route by a gateway inside n.
func (n *NS) Route(tb TB, dst, via string) {
	tb.Helper()
	p := netip.MustParsePrefix(dst)
	r := &netlink.Route{Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Gw: netip.MustParseAddr(via).AsSlice()}
	if err := n.Netlink(tb).RouteReplace(r); err != nil {
		tb.Fatalf("route %s via %s in %s: %v", dst, via, n.Name, err)
	}
}

// Bridge makes a bridge in n with the given devices as ports and the prefixes as its addresses: a common link for all who are behind the ports.
func (n *NS) Bridge(tb TB, name string, ports []string, addrs ...string) {
	tb.Helper()
	h := n.Netlink(tb)
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		tb.Fatalf("bridge: %v", err)
	}
	br, err := h.LinkByName(name)
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range ports {
		l, err := h.LinkByName(p)
		if err != nil {
			tb.Fatal(err)
		}
		if err := h.LinkSetMaster(l, br); err != nil {
			tb.Fatal(err)
		}
	}
	for _, s := range addrs {
		p := netip.MustParsePrefix(s)
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(br, addr); err != nil {
			tb.Fatal(err)
		}
	}
	if err := h.LinkSetUp(br); err != nil {
		tb.Fatal(err)
	}
}

// Sysctl sets a sysctl of the namespace.
func (n *NS) Sysctl(tb TB, key, value string) {
	tb.Helper()
	var err error
	n.Do(func() { err = os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644) })
	if err != nil {
		tb.Fatalf("%s=%s: %v", key, value, err)
	}
}
