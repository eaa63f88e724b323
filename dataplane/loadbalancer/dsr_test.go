// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/fairlead/fairlead/dataplane/conntrack"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// dsrNet is a link with a client, two nodes that it can ask, and the node of the backends, behind which is a pod:
//
//	client .2   entry .1   other .4        back .3 - pod 10.244.2.5
//	   +-----------+----------+---------------+
type dsrNet struct {
	entry, other, back *testNode
	client, pod        netns.NsHandle
}

func newDSRNet(t *testing.T, xdp string, mode Mode, dispatch Dispatch) *dsrNet {
	n := &dsrNet{entry: newNode(t), other: newNode(t), back: newNode(t), client: newNS(t), pod: newNS(t)}
	fabric := newNS(t)
	inNS(t, fabric, "", func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
		return errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br))
	})
	for host, ns := range map[string]netns.NsHandle{"1": n.entry.ns, "2": n.client, "3": n.back.ns, "4": n.other.ns} {
		wire(t, ns, "eth0", "192.0.2."+host+"/24,2001:db8:1::"+host+"/64", fabric, "to"+host, "169.254.0."+host+"/32")
		inNS(t, fabric, "", func() error {
			port, err := netlink.LinkByName("to" + host)
			if err != nil {
				return err
			}
			br, err := netlink.LinkByName("br")
			if err != nil {
				return err
			}
			return netlink.LinkSetMaster(port, br)
		})
		if xdp == "xdp" {
			noOffload(t, ns, "eth0")
			noOffload(t, fabric, "to"+host)
		}
	}
	wire(t, n.back.ns, "pods", "10.244.2.1/24,fd00:10:244:2::1/64", n.pod, "eth0", "10.244.2.5/24,fd00:10:244:2::5/64")
	inNS(t, n.pod, "", func() error { return errors.Join(route("0.0.0.0/0", "10.244.2.1"), route("::/0", "fd00:10:244:2::1")) })
	for name, node := range map[string]*testNode{"n1": n.entry, "n3": n.other, "n2": n.back} {
		node.cfg.NodeName, node.cfg.CgroupRoot, node.cfg.Uplinks, node.cfg.XDP = name, "", []string{"eth0"}, "tcx"
		inNS(t, node.ns, "", func() error {
			return errors.Join(sysctl("net.ipv4.ip_forward", "1"), sysctl("net.ipv6.conf.all.forwarding", "1"))
		})
	}
	for host, node := range map[string]*testNode{"1": n.entry, "4": n.other} {
		node.cfg.Mode, node.cfg.Dispatch, node.cfg.XDP = mode, dispatch, xdp
		node.cfg.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2." + host), netip.MustParseAddr("2001:db8:1::" + host)}
		inNS(t, node.ns, "", func() error {
			return errors.Join(route("10.244.2.0/24", "192.0.2.3"), route("fd00:10:244:2::/64", "2001:db8:1::3"))
		})
	}
	n.via(t, "1")
	leaveCgroup(t)
	return n
}

// via makes the client reach the service addresses through the node with the given host number.
func (n *dsrNet) via(t *testing.T, host string) {
	t.Helper()
	inNS(t, n.client, "", func() error {
		for dst, gw := range map[string]string{"203.0.113.0/24": "192.0.2." + host, "fd00:96::/112": "2001:db8:1::" + host} {
			d, err := netlink.ParseIPNet(dst)
			if err != nil {
				return err
			}
			if err := netlink.RouteReplace(&netlink.Route{Dst: d, Gw: net.ParseIP(gw)}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (n *dsrNet) put(rows ...any) {
	for _, node := range []*testNode{n.entry, n.other, n.back} {
		node.put(rows...)
	}
}

func (n *dsrNet) start(t *testing.T) {
	for _, node := range []*testNode{n.entry, n.other, n.back} {
		node.start()
		t.Cleanup(node.halt)
	}
}

// counter reads one of the datapath's counters of a node.
func (n *testNode) counter(i loader.BPFLbCounterIndex) (sum uint64) {
	n.t.Helper()
	m, err := openPinned(n.loader, loader.BPFMapLbCounters)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	var per []uint64
	if err := m.Lookup(uint32(i), &per); err != nil {
		n.t.Fatal(err)
	}
	for _, c := range per {
		sum += c
	}
	return sum
}

// connections reads a connection table of a node.
func (n *testNode) connections(name string) map[loader.BPFCtKey]loader.BPFCt {
	n.t.Helper()
	m, err := openPinned(n.loader, name)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	out := map[loader.BPFCtKey]loader.BPFCt{}
	var k loader.BPFCtKey
	var v loader.BPFCt
	it := m.Iterate()
	for it.Next(&k, &v) {
		out[k] = v
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		n.t.Fatal(err)
	}
	return out
}

// peerTCP answers each connection with the client's address, then sends back what it gets until the client has no more.
func peerTCP(t testing.TB, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return nil
}

// talk is a connection to a peerTCP.
type talk struct{ net.Conn }

func dialTalk(addr string) (talk, string, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return talk{}, "", err
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	var line []byte
	b := make([]byte, 1)
	for len(line) == 0 || line[len(line)-1] != '\n' {
		if _, err := io.ReadFull(c, b); err != nil {
			c.Close()
			return talk{}, "", fmt.Errorf("greeting: %w", err)
		}
		line = append(line, b[0])
	}
	return talk{c}, strings.TrimSpace(string(line)), nil
}

// echo sends n bytes and reads them back.
func (c talk) echo(n int) error {
	want := bytes.Repeat([]byte("fairlead"), n/8+1)[:n]
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	werr := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		werr <- err
	}()
	got := make([]byte, n)
	_, err := io.ReadFull(c, got)
	if err = errors.Join(err, <-werr); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("other bytes came back")
	}
	return nil
}

// dsrFamily is who is who in one family.
type dsrFamily struct{ family, extern, entry, client, pod, host string }

var dsrFamilies = []dsrFamily{
	{"IPv4", "203.0.113.7", "192.0.2.1", "192.0.2.2", "10.244.2.5", "192.0.2.3"},
	{"IPv6", "fd00:96::77", "2001:db8:1::1", "2001:db8:1::2", "fd00:10:244:2::5", "2001:db8:1::3"},
}

func (f *dsrFamily) join(a string, port int) string { return net.JoinHostPort(a, fmt.Sprint(port)) }

// services gives every node the services of TestDSR in the family: a pod's, one on the host's network, and datagrams.
func (n *dsrNet) services(f *dsrFamily) {
	for i, s := range []struct {
		name    string
		proto   tables.Protocol
		backend string
	}{
		{"pod", tables.TCP, f.join(f.pod, 8080)}, {"host", tables.TCP, f.join(f.host, 8081)}, {"dns", tables.UDP, f.join(f.pod, 5353)},
	} {
		name, port := s.name+strings.ToLower(f.family), 80+i
		svc := nodePort(svc(name, uint16(port), s.proto, map[string]string{"IPv4": "10.96.0.10", "IPv6": "fd00:96::10"}[f.family]), uint16(30000+port))
		svc.ExternalIPs = []netip.Addr{netip.MustParseAddr(f.extern)}
		if f.family == "IPv6" {
			svc.Ports[0].NodePort += 100
		}
		sl := slice(name, s.proto, s.backend)
		sl.Endpoints[0].NodeName = "n2"
		n.put(svc, sl)
	}
}

func (f *dsrFamily) nodePort(i int) string {
	if f.family == "IPv6" {
		i += 100
	}
	return f.join(f.entry, 30080+i)
}

// ask has the client ask everything once and returns a connection that goes on.
func (n *dsrNet) ask(f *dsrFamily) (long talk, err error) {
	for _, addr := range []string{f.join(f.extern, 80), f.nodePort(0), f.join(f.extern, 81), f.nodePort(1)} {
		c, client, err := dialTalk(addr)
		if err != nil {
			return long, fmt.Errorf("%s: %w", addr, err)
		}
		defer c.Close()
		if client != f.client {
			return long, fmt.Errorf("%s: the backend sees %s, want the client %s", addr, client, f.client)
		}
		if c.RemoteAddr().String() != addr {
			return long, fmt.Errorf("%s answers as %s", addr, c.RemoteAddr())
		}
		if err := c.echo(1 << 20); err != nil {
			return long, fmt.Errorf("%s: a megabyte: %w", addr, err)
		}
	}
	for _, size := range []int{1, 1400, 20000} {
		if err := datagram(f.nodePort(2), size); err != nil {
			return long, fmt.Errorf("datagram of %d bytes: %w", size, err)
		}
	}
	long, _, err = dialTalk(f.join(f.extern, 80))
	return long, err
}

// datagram sends one of the given size until it is answered: a large one's first try may be what tells the kernel how much the way takes.
func datagram(addr string, size int) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 100)
	var last error
	for range 10 {
		if _, last = c.Write(make([]byte, size)); last != nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		var k int
		if k, last = c.Read(buf); last == nil {
			if got := string(buf[:k]); got != "dns" {
				return fmt.Errorf("answer %q", got)
			}
			return nil
		}
	}
	return last
}

// TestDSR: a client asks one node, the backend runs on another: the backend sees the client, and its answers, under the service's address, never pass the node that was
// asked. Large packets, whose way to the backend has no room for what is added, are told to be smaller; datagrams that are fragments arrive. Another entry node takes a connection
// over, and so do other agents.
func TestDSR(t *testing.T) {
	for _, xdp := range []string{"tcx", "xdp"} {
		for _, dispatch := range []Dispatch{DispatchIPIP, DispatchOption} {
			t.Run(xdp+"/"+string(dispatch), func(t *testing.T) { directReturn(t, xdp, dispatch) })
		}
	}
}

func directReturn(t *testing.T, xdp string, dispatch Dispatch) {
	n := newDSRNet(t, xdp, DSR, dispatch)
	for i := range dsrFamilies {
		n.services(&dsrFamilies[i])
	}
	n.start(t)
	long := map[string]talk{}
	for i := range dsrFamilies {
		f := &dsrFamilies[i]
		inNS(t, n.pod, "", func() error {
			return errors.Join(peerTCP(t, f.join(f.pod, 8080)), serveUDP(t, f.join(f.pod, 5353), "dns"))
		})
		inNS(t, n.back.ns, "", func() error { return peerTCP(t, f.join(f.host, 8081)) })
		inNS(t, n.client, "", func() error {
			c, err := n.ask(f)
			if err != nil {
				return fmt.Errorf("%s: %w", f.family, err)
			}
			long[f.family] = c
			t.Cleanup(func() { c.Close() })
			return nil
		})
	}
	if c := n.entry.counter(loader.BPFLbCounterIndexLbReturned); c != 0 {
		t.Errorf("%d answers went through the node that was asked", c)
	}
	entries := n.entry.connections(loader.BPFMapCtTcp)
	if len(entries) < 5*len(dsrFamilies) {
		t.Errorf("the node that was asked remembers %d connections", len(entries))
	}
	for k, e := range entries {
		if e.Flags != conntrack.FlagDSR {
			t.Errorf("entry node: %s has flags %#x, want one of direct return alone", netip.AddrFrom16(k.Daddr.B), e.Flags)
		}
	}

	// The network moves the connections to another node, which has never heard of them; then the agents begin anew.
	n.via(t, "4")
	for family, c := range long {
		if err := c.echo(5000); err != nil {
			t.Fatalf("%s through another entry node: %v", family, err)
		}
	}
	if c := n.other.counter(loader.BPFLbCounterIndexLbForwarded); c == 0 {
		t.Error("the other entry node forwarded nothing: the test proves nothing")
	}
	for _, node := range []*testNode{n.other, n.back} {
		node.halt()
		node.start()
	}
	for family, c := range long {
		if err := c.echo(5000); err != nil {
			t.Fatalf("%s after the agents were replaced: %v", family, err)
		}
		port := loader.Htons(netip.MustParseAddrPort(c.LocalAddr().String()).Port())
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			known := false
			for k, e := range n.other.connections(loader.BPFMapCtTcp) {
				if k.Sport != port {
					continue // an earlier connection's last word came this way
				}
				known = true
				if loader.BPFCtState(e.State) != loader.BPFCtStateCtClosing {
					return fmt.Errorf("the closed connection is in state %d", e.State)
				}
			}
			if !known {
				return errors.New("the connection is not in the table")
			}
			return nil
		})
	}
}

// TestDSRModes: which services are answered directly, by the node's mode and the service's own word.
func TestDSRModes(t *testing.T) {
	for _, c := range []struct {
		node       Mode
		annotation string
		tcp, udp   bool
		bad        bool
	}{
		{"", "", false, false, false}, {SNAT, "", false, false, false}, {DSR, "", true, true, false}, {Hybrid, "", true, false, false},
		{SNAT, "dsr", true, true, false}, {DSR, "snat", false, false, false}, {DSR, "hybrid", true, false, false}, {DSR, "fast", true, true, true},
	} {
		tb, err := tables.New()
		if err != nil {
			t.Fatal(err)
		}
		s := nodePort(svc("web", 80, tables.TCP, "10.96.0.10"), 30080)
		s.Ports = append(s.Ports, tables.ServicePort{Name: "q", Protocol: tables.UDP, Port: 53, NodePort: 30053})
		s.Annotations = map[string]string{AnnotationMode: c.annotation}
		putRows(t, tb, s)
		v := &view{txn: tb.DB.ReadTxn(), tables: tb, nodeName: "n1", mode: c.node}
		spec := v.spec(s.Name)
		if (spec.problems != nil) != c.bad {
			t.Errorf("mode %q, annotation %q: problems %v", c.node, c.annotation, spec.problems)
		}
		got := map[string]bool{}
		for _, p := range spec.ports {
			for _, f := range p.frontends {
				got[p.proto.String()+" "+f.kind] = f.flags&flagDSR != 0
			}
		}
		want := map[string]bool{"TCP ClusterIP": false, "UDP ClusterIP": false, "TCP NodePort": c.tcp, "UDP NodePort": c.udp}
		if !maps.Equal(got, want) {
			t.Errorf("mode %q, annotation %q: %v, want %v", c.node, c.annotation, got, want)
		}
	}
}
