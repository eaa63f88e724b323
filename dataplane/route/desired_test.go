// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/fairlead/fairlead/dataplane/tables"
)

func addr(s string) netip.Addr  { return netip.MustParseAddr(s) }
func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func node(name string, ips, cidrs []string) *tables.Node {
	n := &tables.Node{Name: name}
	for _, s := range ips {
		n.InternalIPs = append(n.InternalIPs, addr(s))
	}
	for _, s := range cidrs {
		n.PodCIDRs = append(n.PodCIDRs, pfx(s))
	}
	return n
}

func TestDesired(t *testing.T) {
	self := node("a", []string{"192.0.2.1", "2001:db8::1"}, []string{"10.0.1.0/24", "fd00:0:0:1::/64"})
	peer := node("b", []string{"192.0.2.2", "2001:db8::2"}, []string{"10.0.2.0/24", "fd00:0:0:2::/64"})
	peer4 := node("b", []string{"192.0.2.2"}, []string{"10.0.2.0/24", "fd00:0:0:2::/64"})
	up := []uplink{{index: 3, name: "up0", mtu: 1500, addrs: []netip.Prefix{pfx("192.0.2.1/24"), pfx("2001:db8::1/64")}}}
	const vxlan = 9
	for name, c := range map[string]struct {
		mode   Mode
		peer   *tables.Node
		onLink bool
		routes map[string]hop
		places map[string]place
	}{
		"neighbours route natively, each family by its own address": {Auto, peer, true,
			map[string]hop{"10.0.2.0/24": {via: addr("192.0.2.2")}, "fd00:0:0:2::/64": {via: addr("2001:db8::2")}},
			map[string]place{"10.0.2.0/24": {node: addr("192.0.2.2"), cluster: true}, "192.0.2.2/32": {node: addr("192.0.2.2"), cluster: true}}},
		"behind a router the tunnel is used, also towards the node itself": {Auto, peer, false,
			map[string]hop{"10.0.2.0/24": {dev: vxlan, mtu: 1450, src: addr("10.0.1.1")}, "fd00:0:0:2::/64": {dev: vxlan, mtu: 1450, src: addr("fd00:0:0:1::1")}},
			map[string]place{"10.0.2.0/24": {node: addr("192.0.2.2"), cluster: true, tunnel: true, mtu: 1450},
				"2001:db8::2/128": {node: addr("192.0.2.2"), cluster: true, tunnel: true, mtu: 1450}}},
		"forced into the tunnel": {VXLAN, peer, true,
			map[string]hop{"10.0.2.0/24": {dev: vxlan, mtu: 1450, src: addr("10.0.1.1")}}, nil},
		"native by an underlay that knows pods: no route of ours, no masquerade": {Native, peer, false,
			map[string]hop{"10.0.2.0/24": {}}, map[string]place{"10.0.2.0/24": {node: addr("192.0.2.2"), cluster: true}}},
		"a family without a next hop of its own goes through the tunnel of the other": {Auto, peer4, true,
			map[string]hop{"10.0.2.0/24": {via: addr("192.0.2.2")}, "fd00:0:0:2::/64": {dev: vxlan, mtu: 1450, src: addr("fd00:0:0:1::1")}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{cfg: &Config{Mode: c.mode, MasqueradeExclude: []netip.Prefix{pfx("172.16.0.0/12")}}, self: self, uplinks: up, vxlan: vxlan, onLink: func(netip.Addr) bool { return c.onLink }}
			s := w.desired([]*tables.Node{self, c.peer})
			for p, want := range c.routes {
				if got := s.routes[pfx(p)]; got != want {
					t.Errorf("route to %s: %+v, want %+v", p, got, want)
				}
			}
			for p, want := range c.places {
				if got := s.ipcache[pfx(p)]; got != want {
					t.Errorf("ipcache of %s: %+v, want %+v", p, got, want)
				}
			}
			if !s.routes[pfx("10.0.1.0/24")].unreachable || !s.routes[pfx("fd00:0:0:1::/64")].unreachable {
				t.Error("the node's own ranges must be unreachable where no pod is")
			}
			if !s.ipcache[pfx("172.16.0.0/12")].cluster {
				t.Error("an excluded prefix would be masqueraded")
			}
			want := map[int]masquerade{3: {addr4: addr("192.0.2.1"), addr6: addr("2001:db8::1")}}
			if !reflect.DeepEqual(s.masquerade, want) {
				t.Errorf("masquerade %+v", s.masquerade)
			}
		})
	}
}

func TestMasqueradeAddress(t *testing.T) {
	self := node("a", []string{"192.0.2.7"}, nil)
	up := uplink{index: 3, mtu: 9000, addrs: []netip.Prefix{pfx("192.0.2.5/24"), pfx("192.0.2.7/24"), pfx("fe80::1/64"), pfx("2001:db8::5/64")}}
	w := &world{cfg: &Config{}, self: self, uplinks: []uplink{up}, onLink: func(netip.Addr) bool { return true }}
	if got := w.desired([]*tables.Node{self}).masquerade[3]; got != (masquerade{addr4: addr("192.0.2.7"), addr6: addr("2001:db8::5")}) {
		t.Errorf("the node's own address goes before others of the device, link-local ones never count: %+v", got)
	}
	w.cfg = &Config{NoMasquerade: true}
	if got := w.desired([]*tables.Node{self}).masquerade; len(got) != 0 {
		t.Errorf("masquerading is off: %+v", got)
	}
}
