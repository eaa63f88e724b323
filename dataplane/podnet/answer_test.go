// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// TestServiceAnsweredByItsNode has a node answer at a Service's own address, as its DNS server does, and pods whose sockets no hook sees ask there: they get answers from the Service's
// address, and no entry is made. While another node's server has to answer, packets are translated.
func TestServiceAnsweredByItsNode(t *testing.T) {
	c := newCluster(t, route.Auto, false)
	vip := map[bool]netip.Addr{true: netip.MustParseAddr("10.96.0.9"), false: netip.MustParseAddr("fd00:10:96::9")}
	s := &tables.Service{Name: tables.Name{Namespace: "kube-system", Name: "names"}, Ports: []tables.ServicePort{{Name: "udp", Protocol: tables.UDP, Port: 7}, {Name: "tcp", Protocol: tables.TCP, Port: 7}}}
	slices := func(nodes ...*node) (out []*tables.EndpointSlice) {
		for _, is4 := range families {
			sl := &tables.EndpointSlice{Name: tables.Name{Namespace: "kube-system", Name: fmt.Sprint("names-", is4)}, Service: "names", IPv6: !is4,
				Ports: []tables.EndpointPort{{Name: "udp", Protocol: tables.UDP, Port: 7}, {Name: "tcp", Protocol: tables.TCP, Port: 7}}}
			for _, n := range nodes {
				sl.Endpoints = append(sl.Endpoints, tables.Endpoint{Addr: n.ip(is4), NodeName: n.cfg.Node, Conditions: tables.Ready | tables.Serving, ForNodes: []string{n.cfg.Node}})
			}
			out = append(out, sl)
		}
		return out
	}
	near, far := c.nodes[0], c.nodes[1]
	for _, is4 := range families {
		s.ClusterIPs = append(s.ClusterIPs, vip[is4])
		near.cfg.Answers = append(near.cfg.Answers, &tables.Answer{At: netip.AddrPortFrom(vip[is4], 7), Servers: []netip.AddrPort{netip.AddrPortFrom(near.ip(is4), 7)}})
		serve(t, far.ns, far.ip(is4))
	}
	for _, n := range c.nodes {
		n.cfg.Services, n.cfg.Slices = []*tables.Service{s}, slices(near, far)
	}
	c.start()
	pod := near.pod("client")
	near.ns.Sysctl(t, "net/ipv6/ip_nonlocal_bind", "1") // the DNS server asks for it by socket
	for _, is4 := range families {
		serve(t, near.ns, vip[is4])
	}
	// answered asks from the pod at the Service's address and, without an answer, tries again: agents need a moment.
	answered := func(what, network string, is4 bool, payload int) {
		t.Helper()
		eventually(t, what, func() error {
			saw, err := askPort(pod.ns, network, netip.AddrPortFrom(vip[is4], 7), payload)
			if err == nil && saw != pod.ip[is4].String() {
				err = fmt.Errorf("the server saw %s, want the pod's address %s", saw, pod.ip[is4])
			}
			return err
		})
	}
	all := func(what string) {
		t.Helper()
		for family, is4 := range families {
			for _, network := range []string{"udp", "tcp"} {
				for _, size := range []int{10, 20000} { // the larger comes in fragments or segments
					answered(fmt.Sprint(what, ", ", family, " ", network, " ", size), network, is4, size)
				}
			}
		}
	}
	all("the node itself")
	if n := near.entries(); n != 0 {
		t.Errorf("%d conntrack entries after questions that the node answered itself, want none", n)
	}
	near.kill()
	near.cfg.Slices = slices(far)
	near.start()
	near.eventually("questions are translated", func() error {
		if _, err := askPort(pod.ns, "udp", netip.AddrPortFrom(vip[true], 7), 10); err != nil {
			return err
		}
		if near.entries() == 0 {
			return fmt.Errorf("no conntrack entry: the node still answers itself")
		}
		return nil
	})
	all("another node")

	near.kill()
	near.cfg.Slices = slices(near, far)
	near.start()
	all("the node itself again")
	before := 0
	near.eventually("no further entries", func() error {
		last := before
		before = near.entries()
		for range 5 {
			if _, err := askPort(pod.ns, "udp", netip.AddrPortFrom(vip[true], 7), 10); err != nil {
				return err
			}
		}
		if n := near.entries(); n != before || last != before {
			return fmt.Errorf("%d conntrack entries, %d before", n, before)
		}
		return nil
	})
}

// ip is the node's address of a family.
func (n *node) ip(is4 bool) netip.Addr {
	for _, self := range n.cfg.Nodes {
		for _, a := range self.InternalIPs {
			if self.Name == n.cfg.Node && a.Is4() == is4 {
				return a
			}
		}
	}
	n.t.Fatalf("%s has no such address", n.cfg.Node)
	return netip.Addr{}
}

// entries counts the node's conntrack entries.
func (n *node) entries() (count int) {
	n.t.Helper()
	for _, name := range []string{"ct_any", "ct_tcp"} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(loader.MapDir(filepath.Join(n.cfg.Dir, "bpf")), name), nil)
		if err != nil {
			n.t.Fatal(err)
		}
		var k loader.BPFCtKey
		var v loader.BPFCt
		for it := m.Iterate(); it.Next(&k, &v); {
			count++
		}
		m.Close()
	}
	return count
}
