// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// wire joins two namespaces by a veth pair with the given addresses (address/bits, several by comma) and returns nothing: devices are named as given.
func wire(t *testing.T, a netns.NsHandle, aName, aAddrs string, b netns.NsHandle, bName, bAddrs string) {
	t.Helper()
	inNS(t, a, "", func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: aName, MTU: 1500}, PeerName: bName, PeerNamespace: netlink.NsFd(b)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return setUp(aName, aAddrs)
	})
	inNS(t, b, "", func() error { return setUp(bName, bAddrs) })
}

func setUp(name, addrs string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, s := range strings.Split(addrs, ",") {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

func route(dst, via string) error {
	d, err := netlink.ParseIPNet(dst)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: d, Gw: net.ParseIP(via)})
}

func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
}

// outside is a node between a client and a remote server: client eth0 - up (node) down - eth0 server.
type outside struct {
	node           *testNode
	client, server netns.NsHandle
}

func newOutside(t *testing.T, xdp string) *outside {
	o := &outside{node: newNode(t), client: newNS(t), server: newNS(t)}
	wire(t, o.client, "eth0", "192.0.2.2/24,2001:db8:1::2/64", o.node.ns, "up", "192.0.2.1/24,2001:db8:1::1/64")
	wire(t, o.server, "eth0", "198.51.100.2/24,2001:db8:2::2/64", o.node.ns, "down", "198.51.100.1/24,2001:db8:2::1/64")
	inNS(t, o.node.ns, "", func() error {
		return errors.Join(sysctl("net.ipv4.ip_forward", "1"), sysctl("net.ipv6.conf.all.forwarding", "1"))
	})
	// The service addresses are reached through the node; the server knows no way back to the client but the node's own addresses.
	inNS(t, o.client, "", func() error {
		return errors.Join(route("10.96.0.0/16", "192.0.2.1"), route("203.0.113.0/24", "192.0.2.1"), route("fd00:96::/112", "2001:db8:1::1"))
	})
	if xdp == "xdp" {
		for ns, dev := range map[netns.NsHandle]string{o.client: "eth0", o.server: "eth0", o.node.ns: "up"} {
			noOffload(t, ns, dev)
		}
		noOffload(t, o.node.ns, "down")
	}
	o.node.cfg.Uplinks = []string{"up", "down"}
	o.node.cfg.XDP = xdp
	if xdp == "clsact" { // as on a kernel before 6.6
		o.node.cfg.XDP = "tcx"
		var err error
		if o.node.loader, err = loader.Open(loader.Config{PinDir: o.node.loader.PinDir(), MapSizes: testSizes, NoTCX: true}); err != nil {
			t.Fatal(err)
		}
		o.node.cfg.Loader = o.node.loader
	}
	o.node.cfg.NodeIPs = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:2::1")}
	return o
}

func nodePort(s *tables.Service, port uint16) *tables.Service {
	s.Type = tables.NodePort
	s.Ports[0].NodePort = port
	return s
}

// remote makes a slice of endpoints on another node.
func remote(s *tables.EndpointSlice) *tables.EndpointSlice {
	for i := range s.Endpoints {
		s.Endpoints[i].NodeName = "n2"
	}
	return s
}

// TestOutside: NodePorts, external and cluster addresses from outside, to a backend on this node and to a remote one; both families, TCP and UDP.
func TestOutside(t *testing.T) {
	for _, mode := range []string{"tcx", "xdp", "clsact"} {
		for _, f := range []struct{ family, vip, extern, node, local, remote string }{
			{"IPv4", "10.96.0.10", "203.0.113.7", "192.0.2.1", "198.51.100.1", "198.51.100.2"},
			{"IPv6", "fd00:96::10", "fd00:96::77", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::2"},
		} {
			t.Run(mode+"/"+f.family, func(t *testing.T) {
				o := newOutside(t, mode)
				join := func(a string, port int) string { return net.JoinHostPort(a, fmt.Sprint(port)) }
				near := nodePort(svc("near", 80, tables.TCP, f.vip), 30080)
				near.ExternalIPs = []netip.Addr{netip.MustParseAddr(f.extern)}
				far := nodePort(svc("far", 81, tables.TCP, f.vip), 30081)
				far.ExternalIPs = near.ExternalIPs
				o.node.put(near, far, nodePort(svc("dns", 53, tables.UDP, f.vip), 30053), nodePort(svc("none", 82, tables.TCP, f.vip), 30082),
					slice("near", tables.TCP, join(f.local, 8080)), remote(slice("far", tables.TCP, join(f.remote, 8080))),
					remote(slice("dns", tables.UDP, join(f.remote, 5353))))
				o.node.start()
				defer o.node.halt()
				inNS(t, o.node.ns, "", func() error { return serveTCP(t, join(f.local, 8080), "near") })
				inNS(t, o.server, "", func() error {
					return errors.Join(serveTCP(t, join(f.remote, 8080), "far"), serveUDP(t, join(f.remote, 5353), "dns"))
				})
				leaveCgroup(t)
				inNS(t, o.client, "", func() error {
					for addr, want := range map[string]string{
						join(f.vip, 80): "near", join(f.extern, 80): "near", join(f.node, 30080): "near",
						join(f.vip, 81): "far", join(f.extern, 81): "far", join(f.node, 30081): "far",
					} {
						for range 3 {
							if got, _, err := ask(addr); err != nil || got != want {
								return fmt.Errorf("%s: %q %v, want %q", addr, got, err, want)
							}
						}
					}
					c, err := net.Dial("udp", join(f.node, 30053))
					if err != nil {
						return err
					}
					defer c.Close()
					if got, err := exchange(c); err != nil || got != "dns" {
						return fmt.Errorf("UDP NodePort: %q %v", got, err)
					}
					// No backend, and no such port: told at once.
					for _, addr := range []string{join(f.node, 30082), join(f.vip, 9999)} {
						began := time.Now()
						if _, _, err := ask(addr); !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > time.Second {
							return fmt.Errorf("%s: %v after %s, want ECONNREFUSED at once", addr, err, time.Since(began))
						}
					}
					return ping(f.vip)
				})
			})
		}
	}
}

// ping sends one ICMP echo request and waits for the answer.
func ping(addr string) error {
	a := netip.MustParseAddr(addr)
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if a.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	msg := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1, 'f', 'a', 'i', 'r'}
	if a.Is4() {
		var sum uint32
		for i := 0; i < len(msg); i += 2 {
			sum += uint32(msg[i])<<8 | uint32(msg[i+1])
		}
		sum = sum>>16 + sum&0xffff
		sum = ^(sum>>16 + sum)
		msg[2], msg[3] = byte(sum>>8), byte(sum)
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write(msg); err != nil {
		return err
	}
	buf := make([]byte, 200)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return fmt.Errorf("ping %s: %w", addr, err)
		}
		b := buf[:n]
		if a.Is4() && n >= 20 {
			b, n = b[20:], n-20 // a raw IPv4 socket gives the IP header too
		}
		if n > 4 && b[0] == reply && string(b[n-4:]) == "fair" {
			return nil
		}
	}
}
