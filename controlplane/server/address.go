// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// advertised returns the addresses by which others reach this host, at most one per family: the configured ones, else the source addresses
// that the kernel would choose towards the Internet. No packet is sent.
func (c *Config) advertised() []net.IP {
	var out []net.IP
	for _, text := range c.AdvertiseAddresses {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, net.IP(a.Unmap().AsSlice()))
		}
	}
	if len(out) > 0 {
		return out
	}
	if a, err := netip.ParseAddr(c.BindAddress); err == nil && !a.IsUnspecified() {
		return []net.IP{net.IP(a.Unmap().AsSlice())}
	}
	for _, probe := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", probe)
		if err != nil {
			continue
		}
		ip := conn.LocalAddr().(*net.UDPAddr).IP
		conn.Close()
		if !ip.IsLoopback() && !ip.IsUnspecified() {
			out = append(out, ip)
		}
	}
	if len(out) == 0 {
		out = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	return out
}

// peerURL is where the etcd members of other servers reach this one's.
func (c *Config) peerURL() string {
	return "https://" + net.JoinHostPort(c.advertised()[0].String(), strconv.Itoa(c.PeerPort))
}

// presentPeerURL is peerURL, or "" while this host has no address by which others could reach it.
func (c *Config) presentPeerURL() string {
	if len(c.AdvertiseAddresses) == 0 && c.advertised()[0].IsLoopback() {
		return ""
	}
	return c.peerURL()
}

// peerListenURL is where this server's etcd member listens: on the configured address if this host has it, else (the address is translated on the
// way, or may change) on all of its family. Whoever connects needs a certificate of a member.
func (c *Config) peerListenURL() string {
	address := c.advertised()[0]
	if len(c.AdvertiseAddresses) == 0 && !address.IsLoopback() {
		return "https://" + net.JoinHostPort(unspecified(address).String(), strconv.Itoa(c.PeerPort))
	}
	own, err := net.InterfaceAddrs()
	if err == nil && !address.IsLoopback() && !slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(address)
	}) {
		address = unspecified(address)
	}
	return "https://" + net.JoinHostPort(address.String(), strconv.Itoa(c.PeerPort))
}

// unspecified is the address that means all of address's family.
func unspecified(address net.IP) net.IP {
	if address.To4() != nil {
		return net.IPv4zero
	}
	return net.IPv6unspecified
}

// names are all names and addresses for the serving certificate beyond the cluster's own.
func (c *Config) names() []string {
	var out []string
	for _, ip := range c.advertised() {
		out = append(out, ip.String())
	}
	return append(out, c.TLSNames...)
}
