// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"

	"github.com/fairlead/fairlead/dataplane/ipam"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// uplink is a device towards the world.
type uplink struct {
	index int
	name  string
	mtu   int
	addrs []netip.Prefix
}

// hop is what a route to a prefix should be.
type hop struct {
	unreachable bool
	via         netip.Addr // invalid: none
	dev         int        // 0: the kernel chooses by via
	mtu         int        // 0: the device's
	src         netip.Addr // invalid: none
}

// place is what the ipcache should say about a prefix.
type place struct {
	node    netip.Addr
	cluster bool // reached with the pod's own address
	tunnel  bool
	mtu     int // through the tunnel
}

// masquerade is an uplink's pair of addresses; an invalid one is none.
type masquerade struct{ addr4, addr6 netip.Addr }

// state is everything that the kernel should hold for us.
type state struct {
	routes     map[netip.Prefix]hop
	ipcache    map[netip.Prefix]place
	masquerade map[int]masquerade
}

// world is what the desired state is computed from.
type world struct {
	cfg     *Config
	self    *tables.Node
	uplinks []uplink
	vxlan   int // ifindex of the VXLAN device; 0: none
	// onLink says whether an address is a neighbour on one of our links.
	onLink func(netip.Addr) bool
}

// desired computes the state. It reads nothing but its arguments.
func (w *world) desired(nodes []*tables.Node) *state {
	s := &state{routes: map[netip.Prefix]hop{}, ipcache: map[netip.Prefix]place{}, masquerade: map[int]masquerade{}}
	for _, p := range w.cfg.MasqueradeExclude {
		s.ipcache[p.Masked()] = place{cluster: true}
	}
	for _, n := range nodes {
		if n.Name == w.self.Name {
			w.own(s, n)
		} else {
			w.peer(s, n)
		}
	}
	if w.cfg.NoMasquerade {
		return s
	}
	for _, u := range w.uplinks {
		var m masquerade
		for _, p := range u.addrs {
			a := p.Addr()
			switch {
			case a.Is4() && (!m.addr4.IsValid() || contains(w.self.InternalIPs, a) && !contains(w.self.InternalIPs, m.addr4)):
				m.addr4 = a
			case a.Is6() && a.IsGlobalUnicast() && (!m.addr6.IsValid() || contains(w.self.InternalIPs, a) && !contains(w.self.InternalIPs, m.addr6)):
				m.addr6 = a
			}
		}
		if m.addr4.IsValid() || m.addr6.IsValid() {
			s.masquerade[u.index] = m
		}
	}
	return s
}

func contains(addrs []netip.Addr, a netip.Addr) bool {
	for _, x := range addrs {
		if x == a {
			return true
		}
	}
	return false
}

// own adds this node: its range is unreachable where no pod has a route of its own, so that a packet to an absent pod never leaves by the default route and comes back.
func (w *world) own(s *state, n *tables.Node) {
	for _, c := range n.PodCIDRs {
		s.routes[c.Masked()] = hop{unreachable: true}
		s.ipcache[c.Masked()] = place{cluster: true, node: firstOf(n.InternalIPs, c.Addr().Is4())}
	}
	for _, a := range n.InternalIPs {
		s.ipcache[netip.PrefixFrom(a, a.BitLen())] = place{cluster: true, node: a}
	}
}

// peer adds another node.
func (w *world) peer(s *state, n *tables.Node) {
	var tunnel place // how the node itself is reached if one of its ranges is behind the tunnel
	for _, c := range n.PodCIDRs {
		c = c.Masked()
		if via, ok := w.native(n, c.Addr().Is4()); ok {
			s.ipcache[c] = place{cluster: true, node: via}
			if via.IsValid() && w.onLink(via) {
				s.routes[c] = hop{via: via}
			}
			continue
		}
		end := firstOf(n.InternalIPs, true)
		if !end.IsValid() || w.vxlan == 0 {
			continue // no way there: the kernel answers by its other routes
		}
		tunnel = place{cluster: true, tunnel: true, node: end, mtu: w.tunnelMTU(end)}
		s.ipcache[c] = tunnel
		h := hop{dev: w.vxlan, mtu: w.tunnelMTU(end)}
		for _, own := range w.self.PodCIDRs {
			if own.Addr().Is4() == c.Addr().Is4() {
				h.src = ipam.NodeAddr(own) // the node's own packets to remote pods: their replies find the tunnel again
			}
		}
		s.routes[c] = h
	}
	for _, a := range n.InternalIPs {
		at := place{cluster: true, node: a}
		if tunnel.tunnel {
			at = tunnel // the underlay does not know pods: what they say to the node goes where the answers will come from
		}
		s.ipcache[netip.PrefixFrom(a, a.BitLen())] = at
	}
}

// native returns the next hop to n for a family, and whether the way is native at all. In mode Native without a common link there is no next hop: the underlay routes.
func (w *world) native(n *tables.Node, is4 bool) (netip.Addr, bool) {
	if w.cfg.Mode == VXLAN {
		return netip.Addr{}, false
	}
	for _, a := range n.InternalIPs {
		if a.Is4() == is4 && w.onLink(a) {
			return a, true
		}
	}
	if w.cfg.Mode == Native {
		return firstOf(n.InternalIPs, is4), true
	}
	return netip.Addr{}, false
}

// firstOf returns the first address of the family, else the first address.
func firstOf(addrs []netip.Addr, is4 bool) netip.Addr {
	for _, a := range addrs {
		if a.Is4() == is4 {
			return a
		}
	}
	if len(addrs) > 0 {
		return addrs[0]
	}
	return netip.Addr{}
}

// tunnelMTU is the MTU of routes through the tunnel to end.
func (w *world) tunnelMTU(end netip.Addr) int {
	mtu := 0
	for _, u := range w.uplinks {
		if mtu == 0 || u.mtu < mtu {
			mtu = u.mtu
		}
	}
	if mtu == 0 {
		mtu = 1500
	}
	if end.Is4() {
		return mtu - overhead4
	}
	return mtu - overhead6
}
