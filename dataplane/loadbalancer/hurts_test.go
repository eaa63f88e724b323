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
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// What hurts users of other kube-proxy replacements, on real sockets. The rest of that list: TestSocketUDP (sockets on a dead backend), TestModel (one backend behind several
// addresses), TestOutside (ping, ports that no service has), TestRestart (stale endpoints), TestZeroLoss and TestUpgradeOfLayout (restarts), TestSocketOptOut, and
// TestServicesPerPacket in dataplane/podnet (fragments, kill -9).

// TestPathMTU: between node and backend less fits than both ends believe. A client that sends much through a NodePort must hear of it and go on, by either family.
func TestPathMTU(t *testing.T) {
	for family, addr := range map[string]struct{ vip, node, remote string }{
		"IPv4": {"10.96.0.10", "192.0.2.1", "198.51.100.2"}, "IPv6": {"fd00:96::10", "2001:db8:1::1", "2001:db8:2::2"},
	} {
		t.Run(family, func(t *testing.T) {
			o := newOutside(t, "tcx")
			back := net.JoinHostPort(addr.remote, "8080")
			o.node.put(nodePort(svc("far", 80, tables.TCP, addr.vip), 30080), remote(slice("far", tables.TCP, back)))
			inNS(t, o.node.ns, "", func() error {
				down, err := netlink.LinkByName("down")
				if err != nil {
					return err
				}
				return netlink.LinkSetMTU(down, 1300)
			})
			o.node.start()
			defer o.node.halt()
			inNS(t, o.server, "", func() error { return echoTCP(t, back) })
			leaveCgroup(t)
			inNS(t, o.client, "", func() error {
				c, err := net.DialTimeout("tcp", net.JoinHostPort(addr.node, "30080"), 2*time.Second)
				if err != nil {
					return err
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
				written := make(chan error, 1)
				go func() {
					_, err := c.Write(sent)
					written <- err
				}()
				got := make([]byte, len(sent))
				if n, err := io.ReadFull(c, got); err != nil {
					return fmt.Errorf("%d of %d bytes came back: %w", n, len(sent), err)
				}
				if !bytes.Equal(got, sent) {
					return errors.New("other bytes came back")
				}
				return <-written
			})
		})
	}
}

// TestSourcePortsRunOut: with no source port left towards a backend, a new connection is dropped and counted, those that are open go on, and new ones work again as soon as a port is free.
func TestSourcePortsRunOut(t *testing.T) {
	o := newOutside(t, "tcx")
	n := o.node
	sizes := maps.Clone(testSizes)
	sizes[loader.BPFMapCtTcp] = 65536
	var err error
	if n.loader, err = loader.Open(loader.Config{PinDir: n.loader.PinDir(), MapSizes: sizes}); err != nil {
		t.Fatal(err)
	}
	n.cfg.Loader = n.loader
	n.put(nodePort(svc("far", 80, tables.TCP, "10.96.0.10"), 30080), remote(slice("far", tables.TCP, "198.51.100.2:8080")))
	n.start()
	defer n.halt()
	inNS(t, o.server, "", func() error { return echoTCP(t, "198.51.100.2:8080") })
	leaveCgroup(t)
	dial := func() (c net.Conn, err error) {
		inNS(t, o.client, "", func() error {
			c, err = net.DialTimeout("tcp", "192.0.2.1:30080", 500*time.Millisecond)
			return nil
		})
		return c, err
	}
	say := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		buf := make([]byte, 4)
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, buf)
		return err
	}
	open, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	ct, err := openPinned(n.loader, loader.BPFMapCtTcp)
	if err != nil {
		t.Fatal(err)
	}
	defer ct.Close()
	// Every port is claimed by somebody, as the reply entry of a connection claims it. The one that is open has its own.
	key := func(port int) loader.BPFCtKey {
		return loader.BPFCtKey{Saddr: loader.Addr(netip.MustParseAddr("198.51.100.2").As16()), Daddr: loader.Addr(netip.MustParseAddr("198.51.100.1").As16()),
			Sport: loader.Htons(8080), Dport: loader.Htons(uint16(port)), Proto: 6}
	}
	var now loader.BPFCt
	found := false
	for port := 12000; port <= 29999; port++ {
		if ct.Lookup(key(port), &now) == nil {
			found = true
			break
		}
	}
	if !found {
		t.Fatal("the open connection has no source port of the range")
	}
	claim := now
	claim.Flags |= 0x01 // CT_REPLY
	var claimed []loader.BPFCtKey
	for port := 12000; port <= 29999; port++ {
		err := ct.Update(key(port), claim, ebpf.UpdateNoExist)
		if err == nil {
			claimed = append(claimed, key(port))
		} else if !errors.Is(err, ebpf.ErrKeyExist) {
			t.Fatal(err)
		}
	}
	if c, err := dial(); err == nil {
		c.Close()
		t.Fatal("a connection came about without a source port")
	}
	drops, err := openPinned(n.loader, loader.BPFMapDrops)
	if err != nil {
		t.Fatal(err)
	}
	defer drops.Close()
	var perCPU []loader.BPFDropCounter
	if err := drops.Lookup(uint32(loader.BPFDropReasonDropSnatExhausted), &perCPU); err != nil {
		t.Fatal(err)
	}
	var dropped uint64
	for _, c := range perCPU {
		dropped += c.Packets
	}
	if dropped == 0 {
		t.Error("the drop was not counted as snat_exhausted")
	}
	if err := say(open); err != nil {
		t.Fatalf("an open connection suffered: %v", err)
	}
	for _, k := range claimed {
		if err := ct.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	c, err := dial()
	if err != nil {
		t.Fatalf("with ports free again: %v", err)
	}
	defer c.Close()
	if err := errors.Join(say(c), say(open)); err != nil {
		t.Fatal(err)
	}
}

// TestAffinityLeavesTerminating: session affinity does not hold a client to a backend that terminates, while another is ready: for sockets and for packets from outside.
func TestAffinityLeavesTerminating(t *testing.T) {
	o := newOutside(t, "tcx")
	s := nodePort(svc("web", 80, tables.TCP, "10.96.0.10"), 30080)
	s.Affinity = time.Hour
	sl := slice("web", tables.TCP, "198.51.100.1:8081", "198.51.100.1:8082")
	sl.Ports = sl.Ports[:1]
	sl.Ports[0].Port = 8080
	sl.Endpoints[0].Addr, sl.Endpoints[1].Addr = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.1")
	o.node.put(s, sl)
	o.node.start()
	defer o.node.halt()
	name := map[string]int{"one": 0, "two": 1}
	inNS(t, o.node.ns, "", func() error {
		return errors.Join(serveTCP(t, "198.51.100.1:8080", "one"), serveTCP(t, "192.0.2.1:8080", "two"))
	})
	terminating := func(i int) {
		c := *sl
		c.Endpoints = append([]tables.Endpoint(nil), sl.Endpoints...)
		if i >= 0 {
			c.Endpoints[i].Conditions = ending
		}
		o.node.put(&c)
	}
	follow := func(who, addr string) error {
		first, _, err := ask(addr)
		if err != nil {
			return err
		}
		terminating(name[first])
		eventually(t, func() error {
			if got, _, err := ask(addr); err != nil || got == first {
				return fmt.Errorf("%s: still sent to %q, which terminates (%v)", who, got, err)
			}
			return nil
		})
		terminating(-1)
		return nil
	}
	inNS(t, o.node.ns, "", func() error { return follow("socket", "10.96.0.10:80") })
	leaveCgroup(t)
	inNS(t, o.client, "", func() error { return follow("outside", "192.0.2.1:30080") })
}
