// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// fieldCase is one setting of a Service and its endpoints, and what becomes of those who ask. Expectations are Kubernetes' own, written by hand.
type fieldCase struct {
	name      string
	change    func(*tables.Service)
	near, far tables.Conditions // of the endpoint on this node and the one elsewhere; absent: there is none
	hints     bool              // the near one is hinted for this node's zone, the far one for another
	asks      []fieldAsk
}

// fieldAsk is who asks which of the service's addresses, and who may answer: near, far, either, same (either, but always the one); refused: at once; silent; unserved: any error. After a slash,
// under which address the backend must see the client: its own, or the node's.
type fieldAsk struct{ from, to, want string }

const (
	absent = tables.Conditions(0x80)
	ready  = tables.Ready | tables.Serving
	ending = tables.Serving | tables.Terminating
)

func external(policy tables.Policy) func(*tables.Service) {
	return func(s *tables.Service) { s.Type, s.ExternalPolicy = tables.LoadBalancer, policy }
}

func algorithm(name string) func(*tables.Service) {
	return func(s *tables.Service) { s.Annotations = map[string]string{AnnotationAlgorithm: name} }
}

var fieldCases = []fieldCase{
	{"backend here", external(tables.PolicyCluster), ready, absent, false, []fieldAsk{
		{"pod", "cluster", "near/own"}, {"host", "cluster", "near"}, {"outside", "cluster", "near/own"}, {"other node", "cluster", "near/own"},
		{"pod", "node", "near"}, {"host", "node", "near"}, {"outside", "node", "near/own"}, {"other node", "node", "near/own"},
		{"pod", "external", "near"}, {"host", "external", "near"}, {"outside", "external", "near/own"}, {"other node", "external", "near/own"},
		{"pod", "ingress", "near"}, {"host", "ingress", "near"}, {"outside", "ingress", "near/own"}, {"other node", "ingress", "near/own"},
	}},
	{"backend elsewhere", external(tables.PolicyCluster), absent, ready, false, []fieldAsk{
		{"pod", "cluster", "far/own"}, {"host", "cluster", "far"}, {"outside", "cluster", "far/node"}, {"other node", "cluster", "far/node"},
		{"pod", "node", "far"}, {"host", "node", "far"}, {"outside", "node", "far/node"}, {"other node", "node", "far/node"},
		{"pod", "external", "far"}, {"host", "external", "far"}, {"outside", "external", "far/node"}, {"other node", "external", "far/node"},
		{"pod", "ingress", "far"}, {"host", "ingress", "far"}, {"outside", "ingress", "far/node"}, {"other node", "ingress", "far/node"},
	}},
	{"type ClusterIP has no node port", nil, ready, ready, false, []fieldAsk{{"pod", "cluster", "either"}, {"outside", "node", "refused"}, {"outside", "ingress", "unserved"}}},
	{"ipMode Proxy", func(s *tables.Service) {
		external(tables.PolicyCluster)(s)
		s.Ingress[0].Proxy, s.Ingress[1].Proxy = true, true
	}, ready, ready, false,
		[]fieldAsk{{"outside", "ingress", "unserved"}, {"pod", "ingress", "unserved"}, {"outside", "node", "either"}}},
	{"loadBalancerSourceRanges", func(s *tables.Service) {
		external(tables.PolicyCluster)(s)
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}
	}, ready, ready, false, []fieldAsk{
		{"outside", "ingress", "either"}, {"other node", "ingress", "silent"}, {"other node", "node", "either"}, {"pod", "ingress", "either"}, {"host", "ingress", "either"},
	}},
	{"allocateLoadBalancerNodePorts false", func(s *tables.Service) {
		external(tables.PolicyCluster)(s)
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
	}, ready, ready, false, []fieldAsk{{"outside", "ingress", "either"}, {"outside", "node", "refused"}}},
	{"externalTrafficPolicy Local, backends here and elsewhere", external(tables.PolicyLocal), ready, ready, false, []fieldAsk{
		{"outside", "node", "near/own"}, {"outside", "ingress", "near/own"}, {"other node", "external", "near/own"}, {"pod", "cluster", "either"}, {"pod", "ingress", "either"},
	}},
	{"externalTrafficPolicy Local, backends elsewhere only", external(tables.PolicyLocal), absent, ready, false, []fieldAsk{
		{"outside", "node", "silent"}, {"outside", "ingress", "silent"}, {"pod", "cluster", "far/own"}, {"pod", "ingress", "far"}, {"host", "node", "far"}, {"outside", "cluster", "far/node"},
	}},
	{"internalTrafficPolicy Local, backends here and elsewhere", func(s *tables.Service) { s.InternalPolicy = tables.PolicyLocal }, ready, ready, false, []fieldAsk{
		{"pod", "cluster", "near/own"}, {"host", "cluster", "near"}, {"outside", "cluster", "near/own"},
	}},
	{"internalTrafficPolicy Local, backends elsewhere only", func(s *tables.Service) { s.InternalPolicy = tables.PolicyLocal }, absent, ready, false, []fieldAsk{
		{"pod", "cluster", "unserved"}, {"host", "cluster", "unserved"}, {"outside", "cluster", "silent"},
	}},
	{"no endpoints", external(tables.PolicyCluster), absent, absent, false, []fieldAsk{
		{"pod", "cluster", "refused"}, {"host", "cluster", "refused"}, {"outside", "cluster", "refused"}, {"outside", "node", "refused"}, {"other node", "ingress", "refused"},
	}},
	{"endpoints not ready", external(tables.PolicyCluster), 0, 0, false, []fieldAsk{{"pod", "cluster", "refused"}, {"outside", "node", "refused"}}},
	{"one terminating, one ready", external(tables.PolicyCluster), ending, ready, false, []fieldAsk{{"pod", "cluster", "far"}, {"host", "node", "far"}, {"outside", "node", "far/node"}}},
	{"all terminating, still serving", external(tables.PolicyCluster), ending, absent, false, []fieldAsk{{"pod", "cluster", "near"}, {"outside", "node", "near/own"}}},
	{"externalTrafficPolicy Local, the one here terminating", external(tables.PolicyLocal), ending, ready, false, []fieldAsk{{"outside", "node", "near/own"}, {"pod", "cluster", "far"}}},
	{"all terminating, none serving", external(tables.PolicyCluster), tables.Terminating, absent, false, []fieldAsk{{"pod", "cluster", "refused"}, {"outside", "node", "refused"}}},
	{"sessionAffinity ClientIP", func(s *tables.Service) { external(tables.PolicyCluster)(s); s.Affinity = time.Hour }, ready, ready, false, []fieldAsk{
		{"pod", "cluster", "same"}, {"host", "cluster", "same"}, {"outside", "node", "same"}, {"other node", "ingress", "same"},
	}},
	{"hints for zones", external(tables.PolicyCluster), ready, ready, true, []fieldAsk{{"pod", "cluster", "near"}, {"host", "node", "near"}, {"outside", "node", "near/own"}}},
	{"algorithm maglev", algorithm("maglev"), ready, ready, false, []fieldAsk{{"pod", "cluster", "same"}, {"outside", "cluster", "either"}}},
	{"algorithm least-connections", algorithm("least-connections"), ready, ready, false, []fieldAsk{{"pod", "cluster", "either"}, {"outside", "cluster", "either"}}},
	{"another proxy's by label", func(s *tables.Service) { external(tables.PolicyCluster)(s); s.ProxyName = "other" }, ready, ready, false, []fieldAsk{
		{"pod", "cluster", "unserved"}, {"outside", "node", "refused"}, {"outside", "ingress", "unserved"},
	}},
	{"headless", func(s *tables.Service) { s.Headless, s.ClusterIPs, s.ExternalIPs, s.Ingress = true, nil, nil, nil }, ready, ready, false, []fieldAsk{{"pod", "cluster", "unserved"}}},
	{"ExternalName", func(s *tables.Service) {
		s.Type, s.ExternalName, s.ClusterIPs, s.ExternalIPs, s.Ingress = tables.ExternalName, "example.org", nil, nil, nil
	}, absent, absent, false, []fieldAsk{{"pod", "cluster", "unserved"}}},
}

// fieldFamily are the addresses of a family.
type fieldFamily struct {
	name                       string
	v6                         bool
	pod, client, near, far, up string
	service                    map[string]func(i int) netip.Addr
}

func numbered(format string) func(int) netip.Addr {
	return func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, i)) }
}

var fieldFamilies = []fieldFamily{
	{"IPv4", false, "10.244.0.5", "192.0.2.2", "198.51.100.1", "198.51.100.2", "192.0.2.1", map[string]func(int) netip.Addr{
		"cluster": numbered("10.96.1.%d"), "external": numbered("203.0.113.%d"), "ingress": numbered("203.0.113.1%02d")}},
	{"IPv6", true, "fd00:10:244::5", "2001:db8:1::2", "2001:db8:2::1", "2001:db8:2::2", "2001:db8:1::1", map[string]func(int) netip.Addr{
		"cluster": numbered("fd00:96::1%02x"), "external": numbered("fd00:96::2%02x"), "ingress": numbered("fd00:96::3%02x")}},
}

var fieldProtocols = []tables.Protocol{tables.TCP, tables.UDP}

// rows makes the case's service, number i, with both families and protocols.
func (c *fieldCase) rows(i int) []any {
	name := fmt.Sprintf("case%d", i)
	s := &tables.Service{Name: tables.Name{Namespace: "default", Name: name}}
	for _, p := range fieldProtocols {
		s.Ports = append(s.Ports, tables.ServicePort{Name: p.String(), Protocol: p, Port: 80, NodePort: fieldNodePort(i)})
	}
	out := []any{s}
	for _, f := range fieldFamilies {
		s.ClusterIPs = append(s.ClusterIPs, f.service["cluster"](i))
		s.ExternalIPs = append(s.ExternalIPs, f.service["external"](i))
		s.Ingress = append(s.Ingress, tables.IngressIP{Addr: f.service["ingress"](i)})
		sl := &tables.EndpointSlice{Name: tables.Name{Namespace: "default", Name: name + f.name}, Service: name, IPv6: f.v6}
		for _, p := range fieldProtocols {
			sl.Ports = append(sl.Ports, tables.EndpointPort{Name: p.String(), Protocol: p, Port: 8080})
		}
		for node, e := range map[string]struct {
			addr string
			cond tables.Conditions
			zone string
		}{"n1": {f.near, c.near, "a"}, "n2": {f.far, c.far, "b"}} {
			if e.cond == absent {
				continue
			}
			ep := tables.Endpoint{Addr: netip.MustParseAddr(e.addr), NodeName: node, Conditions: e.cond}
			if c.hints {
				ep.ForZones = []string{e.zone}
			}
			sl.Endpoints = append(sl.Endpoints, ep)
		}
		out = append(out, sl)
	}
	if c.change != nil {
		c.change(s)
	}
	return out
}

func fieldNodePort(i int) uint16 { return uint16(30100 + i) }

// serveSource answers with the server's name and the address of the client.
func serveSource(t testing.TB, addr, name string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close(); u.Close() })
	host := func(a net.Addr) string { h, _, _ := net.SplitHostPort(a.String()); return h }
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name+" "+host(c.RemoteAddr()))
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(name+" "+host(from)), from)
		}
	}()
	return nil
}

// askSource asks once by a new socket and returns who answered, and whom it saw.
func askSource(proto tables.Protocol, to netip.AddrPort, patience time.Duration) (server, source string, err error) {
	c, err := net.DialTimeout(strings.ToLower(proto.String()), to.String(), patience)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if proto == tables.UDP {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil {
		return "", "", err
	}
	server, source, _ = strings.Cut(string(buf[:n]), " ")
	return server, source, nil
}

// TestServiceFields: every field of a Service that decides about traffic, asked for from a pod, a process of the node, another node and outside, by TCP and UDP of both families, with real
// sockets: those of the node through the socket hooks, the others packet by packet.
func TestServiceFields(t *testing.T) {
	o := newOutside(t, "tcx")
	pod := newNS(t)
	wire(t, pod, "eth0", "10.244.0.5/24,fd00:10:244::5/64", o.node.ns, "pod0", "10.244.0.1/24,fd00:10:244::1/64")
	must := func(ns netns.NsHandle, f func() error) { t.Helper(); inNS(t, ns, "", f) }
	must(pod, func() error { return errors.Join(route("0.0.0.0/0", "10.244.0.1"), route("::/0", "fd00:10:244::1")) })
	must(o.server, func() error {
		return errors.Join(route("10.96.0.0/16", "198.51.100.1"), route("203.0.113.0/24", "198.51.100.1"), route("10.244.0.0/16", "198.51.100.1"), route("192.0.2.1/32", "198.51.100.1"),
			route("fd00:96::/112", "2001:db8:2::1"), route("fd00:10:244::/56", "2001:db8:2::1"), route("2001:db8:1::1/128", "2001:db8:2::1"))
	})
	// Ports that are nobody's are the kernel's to refuse, which it does not often by itself.
	must(o.node.ns, func() error {
		return errors.Join(sysctl("net.ipv4.icmp_ratelimit", "0"), sysctl("net.ipv6.icmp.ratelimit", "0"))
	})
	o.node.cfg.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}
	o.node.put(&tables.Node{Name: "n1", Zone: "a"})
	for i := range fieldCases {
		o.node.put(fieldCases[i].rows(i + 1)...)
	}
	o.node.start()
	defer o.node.halt()
	for _, f := range fieldFamilies {
		must(o.node.ns, func() error { return serveSource(t, net.JoinHostPort(f.near, "8080"), "near") })
		must(o.server, func() error { return serveSource(t, net.JoinHostPort(f.far, "8080"), "far") })
	}
	spaces := map[string]netns.NsHandle{"pod": pod, "host": o.node.ns, "outside": o.client, "other node": o.server}
	asked := 0
	phase := func(froms ...string) {
		for i, c := range fieldCases {
			for _, a := range c.asks {
				if !slices.Contains(froms, a.from) {
					continue
				}
				for _, f := range fieldFamilies {
					own := map[string]string{"pod": f.pod, "outside": f.client, "other node": f.far}[a.from]
					for _, p := range fieldProtocols {
						asked++
						must(spaces[a.from], func() error {
							if err := f.ask(a, p, i+1, own); err != nil {
								t.Errorf("%s: %s %s from %s to its %s address: %v", c.name, f.name, p, a.from, a.to, err)
							}
							return nil
						})
					}
				}
			}
		}
	}
	phase("pod", "host")
	leaveCgroup(t)
	phase("outside", "other node")
	t.Logf("%d questions", asked)
}

func (f *fieldFamily) ask(a fieldAsk, p tables.Protocol, i int, own string) error {
	to := netip.AddrPortFrom(netip.MustParseAddr(f.up), fieldNodePort(i))
	if address, ok := f.service[a.to]; ok {
		to = netip.AddrPortFrom(address(i), 80)
	}
	want, seen, _ := strings.Cut(a.want, "/")
	patience, times := 3*time.Second, 3
	switch want {
	case "silent", "unserved":
		patience, times = 250*time.Millisecond, 1
	case "same":
		times = 8
	}
	first := ""
	for range times {
		began := time.Now()
		server, source, err := askSource(p, to, patience)
		switch want {
		case "refused":
			if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > time.Second {
				return fmt.Errorf("%q %v after %s, want ECONNREFUSED at once", server, err, time.Since(began))
			}
			continue
		case "silent":
			if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
				return fmt.Errorf("%q %v, want no answer at all", server, err)
			}
			continue
		case "unserved":
			if err == nil {
				return fmt.Errorf("answered by %s", server)
			}
			continue
		}
		if err != nil {
			return err
		}
		if first == "" {
			first = server
		}
		if want == "same" && server != first || (want == "near" || want == "far") && server != want {
			return fmt.Errorf("answered by %s after %s, want %s", server, first, want)
		}
		if expect := map[string]string{"own": own, "node": f.near}[seen]; expect != "" && source != expect {
			return fmt.Errorf("the backend saw %s, want %s", source, expect)
		}
	}
	return nil
}
