// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"net/netip"
)

// Role says what a host of the sandbox is for.
type Role string

const (
	RoleFabric Role = "fabric" // the link between the others
	RoleClient Role = "client" // outside the cluster
	RoleServer Role = "server" // control plane and node
	RoleAgent  Role = "agent"  // node
)

// IsNode reports whether the role runs a Fairlead node.
func (r Role) IsNode() bool { return r == RoleServer || r == RoleAgent }

// Host is one namespace of the sandbox.
type Host struct {
	Name string     `json:"name"`
	Role Role       `json:"role"`
	IPv4 netip.Addr `json:"ipv4,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	// Subnet counts the links: hosts with different subnets reach each other through the fabric as a router (overlay mode).
	Subnet int `json:"subnet"`
}

// Families says which address families a cluster uses.
type Families struct {
	IPv4 bool `json:"ipv4"`
	IPv6 bool `json:"ipv6"`
}

// Addresses of the sandbox; they exist only inside its namespaces.
var (
	nodeNet4 = netip.MustParsePrefix("10.111.0.0/16") // a /24 per link
	nodeNet6 = netip.MustParsePrefix("fd00:10:111::/48")

	PodCIDRs     = []string{"10.244.0.0/16", "fd00:10:244::/56"}
	ServiceCIDRs = []string{"10.96.0.0/16", "fd00:10:96::/112"}
	// LoadBalancerPools are routed by the client to the nodes.
	LoadBalancerPools = []string{"10.112.0.0/24", "fd00:10:112::/120"}
)

const (
	fabricHostNumber = 1
	clientHostNumber = 2
	firstNodeNumber  = 11
	maxNodes         = 100
)

// Topology is the plan of a sandbox: which hosts there are and their addresses.
type Topology struct {
	Hosts    []Host   `json:"hosts"` // fabric first, client second, then servers, then agents
	Families Families `json:"families"`
	// Routed puts every node on a link of its own, so that pod traffic between nodes needs the overlay.
	Routed bool `json:"routed"`
}

// Plan lays out servers + agents hosts. It fails when there is no server or there are more nodes than addresses.
func Plan(servers, agents int, fam Families, routed bool) (Topology, error) {
	switch {
	case servers < 1:
		return Topology{}, fmt.Errorf("a cluster needs at least one server, got %d", servers)
	case servers%2 == 0:
		return Topology{}, fmt.Errorf("%d servers: an even number of etcd members tolerates no more failures than one fewer; use 1, 3 or 5", servers)
	case agents < 0 || servers+agents > maxNodes:
		return Topology{}, fmt.Errorf("%d servers and %d agents: between 1 and %d nodes are possible", servers, agents, maxNodes)
	case !fam.IPv4 && !fam.IPv6:
		return Topology{}, fmt.Errorf("neither IPv4 nor IPv6 is wanted")
	}
	t := Topology{Families: fam, Routed: routed}
	add := func(name string, role Role, number, subnet int) {
		h := Host{Name: name, Role: role, Subnet: subnet}
		if fam.IPv4 {
			h.IPv4 = linkAddr4(subnet, number)
		}
		if fam.IPv6 {
			h.IPv6 = linkAddr6(subnet, number)
		}
		t.Hosts = append(t.Hosts, h)
	}
	add("fabric", RoleFabric, fabricHostNumber, 0)
	add("client", RoleClient, clientHostNumber, 0)
	for i := range servers + agents {
		subnet := 0
		if routed {
			subnet = i + 1
		}
		if i < servers {
			add(fmt.Sprintf("server-%d", i+1), RoleServer, firstNodeNumber+i, subnet)
		} else {
			add(fmt.Sprintf("agent-%d", i-servers+1), RoleAgent, firstNodeNumber+i, subnet)
		}
	}
	return t, nil
}

// Nodes returns the hosts that run a node.
func (t Topology) Nodes() []Host {
	var nodes []Host
	for _, h := range t.Hosts {
		if h.Role.IsNode() {
			nodes = append(nodes, h)
		}
	}
	return nodes
}

// Host returns the host called name.
func (t Topology) Host(name string) (Host, error) {
	var names []string
	for _, h := range t.Hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return Host{}, fmt.Errorf("no host %q in the sandbox; there are %v", name, names)
}

// Addr is the address by which the sandbox's other hosts reach h: IPv4 where there is one.
func (h Host) Addr() netip.Addr {
	if h.IPv4.IsValid() {
		return h.IPv4
	}
	return h.IPv6
}

// Addrs returns the addresses of h, IPv4 first.
func (h Host) Addrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{h.IPv4, h.IPv6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// Prefixes returns the addresses of h with the length of its link's prefix.
func (h Host) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, a := range h.Addrs() {
		out = append(out, netip.PrefixFrom(a, linkBits(a)))
	}
	return out
}

// Gateway returns the fabric's address on h's link, of the family of a.
func (h Host) Gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return linkAddr4(h.Subnet, fabricHostNumber)
	}
	return linkAddr6(h.Subnet, fabricHostNumber)
}

func linkBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 64
}

func linkAddr4(subnet, number int) netip.Addr {
	b := nodeNet4.Addr().As4()
	b[2], b[3] = byte(subnet), byte(number)
	return netip.AddrFrom4(b)
}

func linkAddr6(subnet, number int) netip.Addr {
	b := nodeNet6.Addr().As16()
	b[7], b[15] = byte(subnet), byte(number)
	return netip.AddrFrom16(b)
}
