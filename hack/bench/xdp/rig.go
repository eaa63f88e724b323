// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/tables"
)

const (
	tcp = uint8(tables.TCP)
	udp = uint8(tables.UDP)
)

// Services with endpoints on this node and on another, and addresses that are none.
var (
	near4     = netip.MustParseAddrPort("10.96.0.1:80")
	near6     = netip.MustParseAddrPort("[fd00:96::1]:80")
	far4      = netip.MustParseAddrPort("10.96.0.2:80")
	far6      = netip.MustParseAddrPort("[fd00:96::2]:80")
	farNode   = netip.MustParseAddrPort("192.0.2.1:30080")
	self      = netip.MustParseAddrPort("192.0.2.1:10250")
	elsewhere = netip.MustParseAddrPort("203.0.113.5:80")
	podHere   = netip.MustParseAddrPort("10.244.0.5:8080")
	client4   = netip.MustParseAddr("10.244.0.77")
	node4     = netip.MustParseAddr("192.0.2.1")
	node6     = netip.MustParseAddr("2001:db8::1")
)

// frameLen is BENCH_FRAME of bpf/bench/xdp.c.
const frameLen = 80

// rig is the programs over maps that the load balancer filled.
type rig struct {
	uplink, pod *ebpf.Collection
	frame       []byte
}

// newRig fills the maps in the namespace ns, whose thread calls, and loads the programs.
func newRig(s *scope, ns *nettest.NS) (*rig, error) {
	if err := network(s, ns); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench-xdp-")
	if err != nil {
		return nil, err
	}
	pins := filepath.Join(dir, "bpf")
	l, err := loader.Open(loader.Config{PinDir: pins})
	if err != nil {
		return nil, err
	}
	s.Cleanup(func() {
		_ = l.Uninstall()
		_ = unix.Unmount(pins, unix.MNT_DETACH)
		_ = os.RemoveAll(dir)
	})
	tb, err := tables.New()
	if err != nil {
		return nil, err
	}
	fill(tb)
	synced := make(chan struct{})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := loadbalancer.Config{
		Tables: tb, Loader: l, NodeName: "n1", NodeIPs: []netip.Addr{node4, node6}, OnSynced: func() { close(synced) },
	}
	go ns.Do(func() { done <- loadbalancer.Run(ctx, cfg) })
	select {
	case <-synced:
	case err := <-done:
		cancel()
		return nil, err
	case <-time.After(time.Minute):
		cancel()
		return nil, errors.New("the load balancer did not get ready")
	}
	// What it wrote stays; its sweeps would disturb the measurement.
	cancel()
	if err := <-done; err != nil {
		return nil, err
	}
	r := new(rig)
	for _, x := range []struct {
		to   **ebpf.Collection
		load func() (*ebpf.CollectionSpec, error)
	}{{&r.uplink, loadBench}, {&r.pod, loadBenchPod}} {
		spec, err := x.load()
		if err != nil {
			return nil, err
		}
		if *x.to, err = l.Load(spec, loader.NodeConstants(loader.NodeFacts{NodeIPs: []netip.Addr{node4, node6}})); err != nil {
			return nil, err
		}
		s.Cleanup((*x.to).Close)
	}
	out, err := netlink.LinkByName("out")
	if err != nil {
		return nil, err
	}
	index := uint32(out.Attrs().Index)
	if err := r.uplink.Maps["xdp_devices"].Put(index, index); err != nil {
		return nil, err
	}
	// The client is on the device of test runs, lo; every other pod on the one that is there.
	if err := r.pod.Maps["endpoints"].Put(loader.Addr(client4.As16()), loader.NetEndpoint{Ifindex: 1}); err != nil {
		return nil, err
	}
	for i, pod := 0, podHere.Addr(); i < 8; i, pod = i+1, pod.Next() {
		if err := r.pod.Maps["endpoints"].Put(loader.Addr(pod.As16()), loader.NetEndpoint{Ifindex: index}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// network gives the namespace a way out with a known neighbour, for both families.
func network(s *scope, ns *nettest.NS) error {
	other := nettest.NewNS(s, "bench-xdp-out")
	nettest.Connect(s, ns, "out", []string{node4.String() + "/24", node6.String() + "/64"}, other, "in", []string{"192.0.2.250/24"}, 1500)
	ns.Sysctl(s, "net/ipv4/ip_forward", "1")
	ns.Sysctl(s, "net/ipv6/conf/all/forwarding", "1")
	ns.Route(s, "0.0.0.0/0", "192.0.2.250")
	ns.Route(s, "::/0", "2001:db8::fa")
	dev, err := netlink.LinkByName("out")
	if err != nil {
		return err
	}
	for _, ip := range []string{"192.0.2.250", "2001:db8::fa"} {
		n := netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: netip.MustParseAddr(ip).AsSlice(), HardwareAddr: []byte{2, 0, 0, 0, 0, 9}}
		if err := netlink.NeighSet(&n); err != nil {
			return fmt.Errorf("neighbour %s: %w", ip, err)
		}
	}
	return nil
}

func fill(tb *tables.Tables) {
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	for _, x := range []struct{ name, node, v4, v6, ep4, ep6 string }{
		{"near", "n1", "10.96.0.1", "fd00:96::1", "10.244.0.5", "fd00:244::5"}, {"far", "n2", "10.96.0.2", "fd00:96::2", "10.244.1.5", "fd00:244:1::5"},
	} {
		svc := &tables.Service{
			Name: tables.Name{Namespace: "bench", Name: x.name}, Type: tables.NodePort, ClusterIPs: []netip.Addr{netip.MustParseAddr(x.v4), netip.MustParseAddr(x.v6)},
			Ports: []tables.ServicePort{{Name: "t", Protocol: tables.TCP, Port: 80}, {Name: "u", Protocol: tables.UDP, Port: 80}},
		}
		if x.name == "far" {
			svc.Ports[0].NodePort, svc.Ports[1].NodePort = 30080, 30080
		}
		_, _, _ = tb.Services.Insert(w, svc)
		for i, a := range []string{x.ep4, x.ep6} {
			sl := &tables.EndpointSlice{
				Name: tables.Name{Namespace: "bench", Name: fmt.Sprintf("%s-%d", x.name, i)}, Service: x.name, IPv6: i == 1,
				Ports: []tables.EndpointPort{{Name: "t", Protocol: tables.TCP, Port: 8080}, {Name: "u", Protocol: tables.UDP, Port: 8080}},
			}
			// Eight, so that the source ports towards each suffice for every flow.
			for addr := netip.MustParseAddr(a); len(sl.Endpoints) < 8; addr = addr.Next() {
				sl.Endpoints = append(sl.Endpoints, tables.Endpoint{Addr: addr, Conditions: tables.Ready | tables.Serving, NodeName: x.node})
			}
			_, _, _ = tb.EndpointSlices.Insert(w, sl)
		}
	}
	w.Commit()
}

// set makes the programs' packet that of the case c, beginning with flow number first.
func (r *rig) set(c *measured, first uint32) error {
	frame, err := packet(c)
	if err != nil {
		return err
	}
	r.frame = frame[:]
	v := r.uplink.Variables
	if c.pod {
		v = r.pod.Variables
	}
	return errors.Join(v["bench_frame"].Set(frame), v["bench_next"].Set(first), v["bench_mask"].Set(c.flows-1))
}

func packet(c *measured) (frame [frameLen]byte, err error) {
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	var ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}
	if dst := c.to.Addr(); dst.Is4() {
		src := netip.MustParseAddr("198.51.100.0")
		if c.pod {
			src = client4
		}
		ip = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(c.proto), SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), Flags: layers.IPv4DontFragment}
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(c.proto), SrcIP: netip.MustParseAddr("2001:db8:9::").AsSlice(), DstIP: dst.AsSlice(),
		}
	}
	var l4 interface {
		gopacket.SerializableLayer
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}
	if c.proto == tcp {
		l4 = &layers.TCP{SrcPort: 1024, DstPort: layers.TCPPort(c.to.Port()), SYN: !c.ack, ACK: c.ack, Window: 1024}
	} else {
		l4 = &layers.UDP{SrcPort: 1024, DstPort: layers.UDPPort(c.to.Port())}
	}
	if err := l4.SetNetworkLayerForChecksum(ip); err != nil {
		return frame, err
	}
	b := gopacket.NewSerializeBuffer()
	payload := gopacket.Payload(make([]byte, 6))
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, l4, payload); err != nil {
		return frame, err
	}
	if len(b.Bytes()) > frameLen {
		return frame, fmt.Errorf("packet of %d bytes", len(b.Bytes()))
	}
	copy(frame[:], b.Bytes())
	return frame, nil
}

// answered marks every connection as established, as if its backend had answered.
func (r *rig) answered() error {
	for _, name := range []string{"ct_tcp", "ct_any"} {
		m := r.uplink.Maps[name]
		var k loader.BPFCtKey
		var v loader.BPFCt
		keys, values := []loader.BPFCtKey{}, []loader.BPFCt{}
		it := m.Iterate()
		for it.Next(&k, &v) {
			v.State = uint8(loader.BPFCtStateCtEstablished)
			keys, values = append(keys, k), append(values, v)
		}
		if err := it.Err(); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if len(keys) == 0 {
			continue
		}
		if _, err := m.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

func pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return nil
}

// scope is what nettest needs of a test.
type scope struct{ cleanups []func() }

type failure struct{ error }

func (s *scope) Helper()                   {}
func (s *scope) Fatal(args ...any)         { panic(failure{fmt.Errorf("%s", fmt.Sprintln(args...))}) }
func (s *scope) Fatalf(f string, a ...any) { panic(failure{fmt.Errorf(f, a...)}) }
func (s *scope) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *scope) end() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}
