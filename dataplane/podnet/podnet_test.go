// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
)

var families = map[string]bool{"IPv4": true, "IPv6": false}

// cluster is two nodes and a host of the outside world.
type cluster struct {
	nodes   []*node
	outside *nettest.NS
	// outIP is the outside host's address, by Is4.
	outIP map[bool]netip.Addr
}

// newCluster makes two nodes: on one link with the outside host, or each on a link of its own with the outside host as their router.
func newCluster(t testing.TB, mode route.Mode, shared bool) *cluster {
	c := &cluster{outside: nettest.NewNS(t, "world"), outIP: map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.1"), false: netip.MustParseAddr("2001:db8::1")}}
	var rows []*tables.Node
	var spaces []*nettest.NS
	var ports []string
	for i := range 2 {
		ns := nettest.NewNS(t, fmt.Sprint("node", i))
		spaces = append(spaces, ns)
		port := fmt.Sprint("n", i)
		ports = append(ports, port)
		addr4, addr6 := fmt.Sprintf("192.0.2.1%d", i), fmt.Sprintf("2001:db8::1%d", i)
		var gw4, gw6 string
		if shared {
			nettest.Connect(t, ns, "up0", []string{addr4 + "/24", addr6 + "/64"}, c.outside, port, nil, 1500)
			gw4, gw6 = "192.0.2.1", "2001:db8::1"
		} else {
			addr4, addr6 = fmt.Sprintf("198.51.%d.10", 100+i), fmt.Sprintf("2001:db8:%d::10", i+1)
			gw4, gw6 = fmt.Sprintf("198.51.%d.1", 100+i), fmt.Sprintf("2001:db8:%d::1", i+1)
			nettest.Connect(t, ns, "up0", []string{addr4 + "/24", addr6 + "/64"}, c.outside, port, []string{gw4 + "/24", gw6 + "/64"}, 1500)
		}
		defer func() {
			ns.Route(t, "0.0.0.0/0", gw4)
			ns.Route(t, "::/0", gw6)
		}()
		rows = append(rows, &tables.Node{Name: fmt.Sprint("node", i), Ready: true,
			InternalIPs: []netip.Addr{netip.MustParseAddr(addr4), netip.MustParseAddr(addr6)},
			PodCIDRs:    []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i))}})
	}
	if shared {
		c.outside.Bridge(t, "br0", ports, "192.0.2.1/24", "2001:db8::1/64")
	} else {
		c.outside.Sysctl(t, "net/ipv4/ip_forward", "1")
		c.outside.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
		h := c.outside.Netlink(t)
		_ = h
		c.outside.Bridge(t, "br0", nil, "192.0.2.1/32", "2001:db8::1/128")
	}
	for i, ns := range spaces {
		c.nodes = append(c.nodes, newNode(t, ns, agentConfig{Node: rows[i].Name, Mode: mode, Nodes: rows, Quarantine: -1}))
	}
	return c
}

func (c *cluster) start() {
	for _, n := range c.nodes {
		n.start()
	}
}

func TestConnectivity(t *testing.T) {
	for name, setup := range map[string]struct {
		mode   route.Mode
		shared bool
	}{
		"nodes on one link, native":    {route.Auto, true},
		"nodes on one link, VXLAN":     {route.VXLAN, true},
		"nodes behind a router, VXLAN": {route.Auto, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, setup.mode, setup.shared)
			c.start()
			a, b, far := c.nodes[0].pod("a"), c.nodes[0].pod("b"), c.nodes[1].pod("far")
			for family, is4 := range families {
				for _, p := range []*pod{a, b, far} {
					serve(t, p.ns, p.ip[is4])
				}
				serve(t, c.outside, c.outIP[is4])
				var nodeIPs []netip.Addr
				for _, n := range c.nodes {
					for _, ip := range n.cfg.Nodes {
						if ip.Name == n.cfg.Node {
							for _, x := range ip.InternalIPs {
								if x.Is4() == is4 {
									nodeIPs = append(nodeIPs, x)
									serve(t, n.ns, x)
								}
							}
						}
					}
				}
				for _, network := range []string{"tcp", "udp"} {
					check := func(what string, from *nettest.NS, to netip.Addr, payload int, wantPeer ...netip.Addr) {
						t.Helper()
						var got string
						var err error
						for range 3 { // neighbours are still being discovered
							if got, err = ask(from, network, to, payload); err == nil {
								break
							}
							t.Logf("%s %s %s: not yet: %v", family, network, what, err)
							time.Sleep(100 * time.Millisecond)
						}
						if err != nil {
							t.Errorf("%s %s %s: %v", family, network, what, err)
							return
						}
						for _, w := range wantPeer {
							if got == w.String() {
								return
							}
						}
						if len(wantPeer) > 0 {
							t.Errorf("%s %s %s: peer saw %s, want %s", family, network, what, got, wantPeer)
						}
					}
					big := 40000
					check("pod to pod on one node", a.ns, b.ip[is4], big, a.ip[is4])
					check("pod to pod across nodes", a.ns, far.ip[is4], big, a.ip[is4])
					check("pod to its node", a.ns, nodeIPs[0], big, a.ip[is4])
					check("pod to the other node", a.ns, nodeIPs[1], big)
					check("node to its pod", c.nodes[0].ns, a.ip[is4], big)
					check("node to the other node's pod", c.nodes[0].ns, far.ip[is4], big)
					check("pod to the world", a.ns, c.outIP[is4], big, nodeIPs[0])
				}
			}
		})
	}
}
