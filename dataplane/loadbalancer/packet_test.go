// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// rig is the packet programs, loaded but attached nowhere, over maps that a reconciler fills from tables. Packets go through BPF_PROG_TEST_RUN.
type rig struct {
	t        testing.TB
	tables   *tables.Tables
	rec      *reconciler
	maps     map[string]*ebpf.Map
	tcx, xdp *ebpf.Collection
	load     func(func() (*ebpf.CollectionSpec, error)) *ebpf.Collection
}

const rigLifetime = 1 << 30 // ticks

const (
	verdictTCNext  = ^uint32(0)
	verdictTCDrop  = 2
	verdictTCRedir = 7
	verdictXDPDrop = 1
	verdictXDPPass = 2
	verdictXDPTx   = 3
)

var (
	rigNode4 = netip.MustParseAddr("192.0.2.1")
	rigNode6 = netip.MustParseAddr("2001:db8::1")
	macA     = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB     = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
)

func newRig(t testing.TB) *rig {
	t.Helper()
	pins := filepath.Join(t.TempDir(), "bpf")
	sizes := maps.Clone(testSizes)
	sizes[loader.BPFMapCtTcp], sizes[loader.BPFMapCtAny] = 1<<18, 1<<18
	l, err := loader.Open(loader.Config{PinDir: pins, MapSizes: sizes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Uninstall()
		_ = unix.Unmount(pins, unix.MNT_DETACH)
	})
	r := &rig{t: t}
	facts := loader.NodeConstants(loader.NodeFacts{
		NodeIPs:  []netip.Addr{rigNode4, rigNode6},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
	})
	// The model knows no time. On a machine so slow that an unanswered connection expires within a test, its port would be free again and the model would not know.
	for _, c := range []string{"cfg_ct_tcp_syn", "cfg_ct_tcp_established", "cfg_ct_tcp_closing", "cfg_ct_udp", "cfg_ct_udp_stream"} {
		facts[c] = uint32(rigLifetime)
	}
	r.load = func(f func() (*ebpf.CollectionSpec, error)) *ebpf.Collection {
		spec, err := f()
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Load(spec, facts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	r.maps = r.load(loader.LoadBPF).Maps
	r.tcx, r.xdp = r.load(loader.LoadUplink), r.load(loader.LoadXDP)
	k, err := openKernel(r.maps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.close() })
	r.rec = newReconciler(k)
	r.rec.setNodeAddrs(map[loader.BPFAddr]bool{loader.Addr(rigNode4.As16()): true, loader.Addr(rigNode6.As16()): true})
	if err := r.rec.flush(); err != nil {
		t.Fatal(err)
	}
	if r.tables, err = tables.New(); err != nil {
		t.Fatal(err)
	}
	return r
}

// apply upserts rows and reconciles all services.
func (r *rig) apply(rows ...any) {
	r.t.Helper()
	putRows(r.t, r.tables, rows...)
	v := &view{txn: r.tables.DB.ReadTxn(), tables: r.tables, nodeName: "n1"}
	var names []tables.Name
	for s := range r.tables.Services.All(v.txn) {
		names = append(names, s.Name)
	}
	r.rec.expect(len(names))
	for i, spec := range v.specs(names) {
		if err := r.rec.apply(names[i], spec); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := r.rec.flush(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) run(p *ebpf.Program, packet []byte) (uint32, []byte) {
	r.t.Helper()
	out := make([]byte, 2048)
	opts := &ebpf.RunOptions{Data: packet, DataOut: out}
	v, err := p.Run(opts)
	if err != nil {
		r.t.Fatalf("test run of %d bytes % x: %v", len(packet), packet, err)
	}
	return v, opts.DataOut
}

func (r *rig) in(packet []byte) (uint32, []byte) {
	return r.run(r.tcx.Programs[loader.UplinkProgUplinkIn], packet)
}

func (r *rig) xdpIn(packet []byte) (uint32, []byte) {
	return r.run(r.xdp.Programs[loader.XDPProgUplinkXdp], packet)
}

// packet builds a frame from src to dst. l4 is a pointer to a TCP, UDP, ICMPv4 or SCTP layer, or ICMPv6 layers.
func packet(t testing.TB, src, dst string, l4 ...gopacket.SerializableLayer) []byte {
	t.Helper()
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	eth := &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var proto layers.IPProtocol
	switch l4[0].(type) {
	case *layers.TCP:
		proto = layers.IPProtocolTCP
	case *layers.UDP:
		proto = layers.IPProtocolUDP
	case *layers.SCTP:
		proto = layers.IPProtocolSCTP
	case *layers.ICMPv4:
		proto = layers.IPProtocolICMPv4
	case *layers.ICMPv6:
		proto = layers.IPProtocolICMPv6
	}
	var netLayer gopacket.NetworkLayer
	if s.Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: s.AsSlice(), DstIP: d.AsSlice(), Flags: layers.IPv4DontFragment}
		ip, netLayer = v4, v4
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: s.AsSlice(), DstIP: d.AsSlice()}
		ip, netLayer = v6, v6
	}
	for _, l := range l4 {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(netLayer); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{eth, ip}, l4...)
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// seen is what a test looks at in a packet.
type seen struct {
	src, dst     netip.Addr
	sport, dport uint16
	tcp          *layers.TCP
	icmp4        *layers.ICMPv4
	icmp6        *layers.ICMPv6
	payload      []byte
}

// parse decodes a frame and checks its checksums.
func parse(t testing.TB, frame []byte) seen {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("packet does not parse: %v\n%s", e.Error(), p.Dump())
	}
	for _, l := range p.Layers() {
		if c, ok := l.(interface { // gopacket sets this itself for some layers only
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			_ = c.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
	}
	err, bad := p.VerifyChecksums()
	if err != nil || len(bad) > 0 {
		t.Fatalf("checksums: %v %+v\n%s", err, bad, p.String())
	}
	var s seen
	nl := p.NetworkLayer()
	s.src, _ = netip.AddrFromSlice(nl.NetworkFlow().Src().Raw())
	s.dst, _ = netip.AddrFromSlice(nl.NetworkFlow().Dst().Raw())
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.TCP:
			s.sport, s.dport, s.tcp, s.payload = uint16(l.SrcPort), uint16(l.DstPort), l, l.LayerPayload()
		case *layers.UDP:
			s.sport, s.dport, s.payload = uint16(l.SrcPort), uint16(l.DstPort), l.LayerPayload()
		case *layers.ICMPv4:
			s.icmp4, s.payload = l, l.LayerPayload()
		case *layers.ICMPv6:
			s.icmp6, s.payload = l, l.LayerPayload()
		}
	}
	return s
}

func syn(sport, dport uint16) *layers.TCP {
	return &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), SYN: true, Seq: 1000, Window: 1024}
}

func TestEcho(t *testing.T) {
	r := newRig(t)
	r.apply(svc("web", 80, tables.TCP, "10.96.0.10", "fd00:96::10"))
	v4 := packet(t, "198.51.100.9", "10.96.0.10", &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 77, Seq: 1}, gopacket.Payload("hello"))
	v6 := packet(t, "2001:db8::9", "fd00:96::10", &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}, gopacket.Payload("\x00\x4d\x00\x01hello"))
	for name, in := range map[string][]byte{"IPv4": v4, "IPv6": v6} {
		for hook, f := range map[string]func([]byte) (uint32, []byte){"tcx": r.in, "xdp": r.xdpIn} {
			verdict, out := f(in)
			if want := map[string]uint32{"tcx": verdictTCRedir, "xdp": verdictXDPTx}[hook]; verdict != want {
				t.Errorf("%s %s: verdict %d, want %d", name, hook, verdict, want)
				continue
			}
			was, is := parse(t, in), parse(t, out)
			if is.src != was.dst || is.dst != was.src || string(is.payload) != string(was.payload) {
				t.Errorf("%s %s: reply %+v", name, hook, is)
			}
			if is.icmp4 != nil && (is.icmp4.TypeCode.Type() != 0 || is.icmp4.Id != 77) || is.icmp6 != nil && is.icmp6.TypeCode.Type() != 129 {
				t.Errorf("%s %s: no echo reply: %+v", name, hook, is)
			}
		}
	}
}
