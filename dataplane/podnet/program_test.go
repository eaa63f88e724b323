// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// These tests feed crafted packets to the loaded programs by BPF_PROG_TEST_RUN: nothing is attached. The kernel gives such packets the device lo, ifindex 1.

const (
	verdictNext     = ^uint32(0)
	verdictDrop     = 2
	verdictRedirect = 7
	testIfindex     = 1
)

var (
	podMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	hostMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	outMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 3}
)

// addresses of the tests, by Is4.
var (
	pod1    = map[bool]string{true: "10.244.0.5", false: "fd00:10:244::5"}
	pod2    = map[bool]string{true: "10.244.0.6", false: "fd00:10:244::6"}
	farPod  = map[bool]string{true: "10.244.1.7", false: "fd00:10:244:1::7"}
	nodeIP  = map[bool]string{true: "192.0.2.10", false: "2001:db8::10"}
	remote  = map[bool]string{true: "203.0.113.9", false: "2001:db8:99::9"}
	remote2 = map[bool]string{true: "203.0.113.10", false: "2001:db8:99::10"}
)

type rig struct {
	t        testing.TB
	pod, net *ebpf.Collection
}

func newRig(t testing.TB, constants map[string]any) *rig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpffs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	l, err := loader.Open(loader.Config{PinDir: dir, MapSizes: map[string]uint32{"masquerade": 4096, "inbound": 1024, "ct_tcp": 1024, "ct_any": 1024,
		"services": 1024, "backends": 1024, "slots": 1024, "backend_loads": 1024}})
	if err != nil {
		t.Fatal(err)
	}
	all := loader.NodeConstants(loader.NodeFacts{NodeIPs: []netip.Addr{netip.MustParseAddr(nodeIP[true]), netip.MustParseAddr(nodeIP[false])},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}})
	for k, v := range constants {
		all[k] = v
	}
	r := &rig{t: t}
	for _, c := range []struct {
		to   **ebpf.Collection
		spec func() (*ebpf.CollectionSpec, error)
	}{{&r.pod, loader.LoadPod}, {&r.net, loader.LoadNet}} {
		spec, err := c.spec()
		if err != nil {
			t.Fatal(err)
		}
		if *c.to, err = l.Load(spec, all); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*c.to).Close)
	}
	put := func(m string, k, v any) {
		t.Helper()
		if err := r.net.Maps[m].Put(k, v); err != nil {
			t.Fatalf("%s: %v", m, err)
		}
	}
	addr := func(s string) loader.NetAddr { return loader.NetAddr{B: netip.MustParseAddr(s).As16()} }
	for _, is4 := range families {
		ep := loader.NetEndpoint{Ifindex: testIfindex, Mac: [6]byte(podMAC), HostMac: [6]byte(hostMAC)}
		put("endpoints", addr(pod1[is4]), ep)
		ep.Ifindex = 999999
		put("endpoints", addr(pod2[is4]), ep)
		bits := uint32(64)
		if is4 {
			bits = 96 + 16
		}
		put("ipcache", loader.NetIpcacheKey{Prefixlen: bits, Addr: addr(farPod[is4])}, loader.NetIpcacheEntry{Flags: 1})
		put("ipcache", loader.NetIpcacheKey{Prefixlen: 128, Addr: addr(nodeIP[is4])}, loader.NetIpcacheEntry{Flags: 1})
	}
	put("uplinks", uint32(testIfindex), loader.NetUplink{Addr4: addr(nodeIP[true]), Addr6: addr(nodeIP[false])})
	return r
}

func (r *rig) run(program string, packet []byte) (uint32, []byte) {
	r.t.Helper()
	p := r.pod.Programs[program]
	if p == nil {
		p = r.net.Programs[program]
	}
	opts := &ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256)}
	v, err := p.Run(opts)
	if errors.Is(err, unix.EINVAL) && len(packet) < 54 {
		return verdictDrop, packet // test runs take no packet without a network header; a device's packets go through the same parser
	}
	if err != nil {
		r.t.Fatalf("test run of %s: %v", program, err)
	}
	return v, opts.DataOut
}

// frame builds a frame; l4 is one transport layer, or an ICMPv6 layer and what follows it.
func frame(t testing.TB, from, to string, ttl uint8, l4 ...gopacket.SerializableLayer) []byte {
	t.Helper()
	s, d := netip.MustParseAddr(from), netip.MustParseAddr(to)
	eth := &layers.Ethernet{SrcMAC: outMAC, DstMAC: hostMAC, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	proto := map[string]layers.IPProtocol{"TCP": 6, "UDP": 17, "ICMPv4": 1, "ICMPv6": 58, "SCTP": 132}[l4[0].LayerType().String()]
	if s.Is4() {
		ip = &layers.IPv4{Version: 4, IHL: 5, TTL: ttl, Id: 77, Protocol: proto, SrcIP: s.AsSlice(), DstIP: d.AsSlice()}
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: s.AsSlice(), DstIP: d.AsSlice()}
	}
	if c, ok := l4[0].(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := c.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)); err != nil {
			t.Fatal(err)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append([]gopacket.SerializableLayer{eth, ip}, l4...)...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

func tcp(sport, dport uint16) gopacket.SerializableLayer {
	return &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), SYN: true, Window: 1000}
}

func udp(sport, dport uint16) gopacket.SerializableLayer {
	return &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
}

// echo is a ping: request, or reply.
func echo(is4, reply bool, id uint16) []gopacket.SerializableLayer {
	if is4 {
		kind := layers.ICMPv4TypeCode(layers.CreateICMPv4TypeCode(8, 0))
		if reply {
			kind = layers.CreateICMPv4TypeCode(0, 0)
		}
		return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: kind, Id: id, Seq: 1}, gopacket.Payload("ping")}
	}
	kind := layers.CreateICMPv6TypeCode(128, 0)
	if reply {
		kind = layers.CreateICMPv6TypeCode(129, 0)
	}
	return []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: kind}, &layers.ICMPv6Echo{Identifier: id, SeqNumber: 1}, gopacket.Payload("ping")}
}

// fields of a packet, read by the test's own eyes.
type fields struct {
	src, dst     string
	sport, dport uint16
	ttl          uint8
	proto        uint8
	l3, l4       int
}

func parse(t testing.TB, p []byte) fields {
	t.Helper()
	f := fields{l3: 14}
	switch binary.BigEndian.Uint16(p[12:]) {
	case 0x0800:
		f.l4 = 14 + int(p[14]&15)*4
		f.proto, f.ttl = p[23], p[22]
		f.src, f.dst = netip.AddrFrom4([4]byte(p[26:30])).String(), netip.AddrFrom4([4]byte(p[30:34])).String()
	case 0x86dd:
		f.l4 = 54
		f.proto, f.ttl = p[20], p[21]
		f.src, f.dst = netip.AddrFrom16([16]byte(p[22:38])).String(), netip.AddrFrom16([16]byte(p[38:54])).String()
	default:
		t.Fatalf("no IP packet: %x", p[:16])
	}
	switch f.proto {
	case 6, 17, 132:
		f.sport, f.dport = binary.BigEndian.Uint16(p[f.l4:]), binary.BigEndian.Uint16(p[f.l4+2:])
	case 1, 58:
		f.sport = binary.BigEndian.Uint16(p[f.l4+4:])
	}
	return f
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func add(b []byte) (sum uint32) {
	for i := 0; i < len(b); i += 2 {
		if i+1 < len(b) {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		} else {
			sum += uint32(b[i]) << 8
		}
	}
	return sum
}

// checkSums verifies the IP and transport checksums of a packet (RFC 1071: with the field included they add up to ffff).
func checkSums(t testing.TB, what string, p []byte) {
	t.Helper()
	f := parse(t, p)
	var sum uint32
	if p[12] == 0x08 { // short frames are padded
		p = p[:14+int(binary.BigEndian.Uint16(p[16:]))]
	} else {
		p = p[:54+int(binary.BigEndian.Uint16(p[18:]))]
	}
	if p[12] == 0x08 {
		if s := fold(add(p[14:f.l4])); s != 0xffff {
			t.Errorf("%s: IP header sums to %04x", what, s)
		}
		if f.proto != 1 {
			sum = add(p[26:34]) + uint32(f.proto) + uint32(len(p)-f.l4)
		}
	} else {
		sum = add(p[22:54]) + uint32(f.proto) + uint32(len(p)-f.l4)
	}
	if f.proto == 132 {
		return // CRC32c, over no address
	}
	if s := fold(sum + add(p[f.l4:])); s != 0xffff {
		t.Errorf("%s: transport sums to %04x", what, s)
	}
}

func TestMasqueradeRoundTrip(t *testing.T) {
	r := newRig(t, nil)
	for family, is4 := range families {
		for name, c := range map[string]struct {
			out   func() []gopacket.SerializableLayer
			reply func(port uint16) []gopacket.SerializableLayer
			port  uint16 // the pod's
		}{
			"TCP":  {func() []gopacket.SerializableLayer { return []gopacket.SerializableLayer{tcp(4000, 80)} }, func(p uint16) []gopacket.SerializableLayer { return []gopacket.SerializableLayer{tcp(80, p)} }, 4000},
			"UDP":  {func() []gopacket.SerializableLayer { return []gopacket.SerializableLayer{udp(4001, 53)} }, func(p uint16) []gopacket.SerializableLayer { return []gopacket.SerializableLayer{udp(53, p)} }, 4001},
			"echo": {func() []gopacket.SerializableLayer { return echo(is4, false, 4002) }, func(p uint16) []gopacket.SerializableLayer { return echo(is4, true, p) }, 4002},
		} {
			what := family + " " + name
			v, out := r.run("to_net", frame(t, pod1[is4], remote[is4], 63, c.out()...))
			f := parse(t, out)
			if v != verdictNext || f.src != nodeIP[is4] || f.dst != remote[is4] || f.sport < 61000 {
				t.Fatalf("%s: verdict %d, %+v", what, v, f)
			}
			checkSums(t, what+" outwards", out)
			_, again := r.run("to_net", frame(t, pod1[is4], remote[is4], 63, c.out()...))
			if g := parse(t, again); g.sport != f.sport {
				t.Errorf("%s: the flow's second packet has port %d, its first %d", what, g.sport, f.sport)
			}
			v, back := r.run("from_net", frame(t, remote[is4], nodeIP[is4], 63, c.reply(f.sport)...))
			g := parse(t, back)
			port := g.dport
			if name == "echo" {
				port = g.sport
			}
			if v != verdictRedirect || g.dst != pod1[is4] || g.src != remote[is4] || port != c.port || g.ttl != 62 {
				t.Errorf("%s: reply: verdict %d, %+v", what, v, g)
			}
			checkSums(t, what+" inwards", back)
			if !bytes.Equal(back[:12], append(bytes.Clone(podMAC), hostMAC...)) {
				t.Errorf("%s: MACs %x", what, back[:12])
			}
			// The same port, asked by somebody else, is the node's own business.
			if v, p := r.run("from_net", frame(t, remote2[is4], nodeIP[is4], 63, c.reply(f.sport)...)); v != verdictNext || parse(t, p).dst != nodeIP[is4] {
				t.Errorf("%s: a stranger's packet: verdict %d", what, v)
			}
		}
		// SCTP keeps its port.
		v, out := r.run("to_net", frame(t, pod1[is4], remote[is4], 63, &layers.SCTP{SrcPort: 5000, DstPort: 5001}))
		if f := parse(t, out); v != verdictNext || f.src != nodeIP[is4] || f.sport != 5000 {
			t.Errorf("%s SCTP: verdict %d, %+v", family, v, f)
		}
	}
}

func TestWhatIsNotMasqueraded(t *testing.T) {
	r := newRig(t, nil)
	for family, is4 := range families {
		multicast := map[bool]string{true: "239.1.1.1", false: "ff05::1"}[is4]
		for what, p := range map[string][]byte{
			"to a pod elsewhere":   frame(t, pod1[is4], farPod[is4], 63, tcp(1, 2)),
			"to a node":            frame(t, pod1[is4], nodeIP[is4], 63, tcp(1, 2)),
			"the node's own":       frame(t, nodeIP[is4], remote[is4], 63, tcp(1, 2)),
			"of nobody we know":    frame(t, farPod[is4], remote[is4], 63, tcp(1, 2)),
			"to a multicast group": frame(t, pod1[is4], multicast, 63, udp(1, 2)),
		} {
			if v, out := r.run("to_net", p); v != verdictNext || !bytes.Equal(out, p) {
				t.Errorf("%s, %s: verdict %d, packet changed: %v", family, what, v, !bytes.Equal(out, p))
			}
		}
		// A connection that the outside opened to the pod itself.
		if v, _ := r.run("from_net", frame(t, remote[is4], pod1[is4], 63, tcp(777, 80))); v != verdictRedirect {
			t.Errorf("%s: inbound: verdict %d", family, v)
		}
		p := frame(t, pod1[is4], remote[is4], 63, tcp(80, 777))
		if v, out := r.run("to_net", p); v != verdictNext || !bytes.Equal(out, p) {
			t.Errorf("%s: the answer to an inbound connection was changed", family)
		}
	}
}

func TestMasqueradePortsRunOut(t *testing.T) {
	r := newRig(t, map[string]any{"cfg_masq_port_min": uint16(61000), "cfg_masq_port_max": uint16(61001)})
	for family, is4 := range families {
		seen := map[uint16]bool{}
		for sport := range uint16(2) {
			v, out := r.run("to_net", frame(t, pod1[is4], remote[is4], 63, tcp(1000+sport, 80)))
			f := parse(t, out)
			if v != verdictNext || seen[f.sport] || f.sport < 61000 || f.sport > 61001 {
				t.Fatalf("%s: flow %d: verdict %d, port %d, taken %v", family, sport, v, f.sport, seen)
			}
			seen[f.sport] = true
		}
		if v, _ := r.run("to_net", frame(t, pod1[is4], remote[is4], 63, tcp(1002, 80))); v != verdictDrop {
			t.Errorf("%s: a third flow on two ports: verdict %d", family, v)
		}
		for _, other := range [][]byte{frame(t, pod1[is4], remote2[is4], 63, tcp(1002, 80)), frame(t, pod1[is4], remote[is4], 63, tcp(1002, 81)), frame(t, pod1[is4], remote[is4], 63, udp(1002, 80))} {
			if v, _ := r.run("to_net", other); v != verdictNext {
				t.Errorf("%s: another destination has ports of its own: verdict %d", family, v)
			}
		}
	}
}

// quote wraps what a router answers to packet.
func quote(t testing.TB, is4 bool, from, to string, packet []byte, bytesOf int) []byte {
	t.Helper()
	inner := packet[14:]
	if len(inner) > bytesOf {
		inner = inner[:bytesOf]
	}
	if is4 {
		return frame(t, from, to, 60, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1300}, gopacket.Payload(inner))
	}
	return frame(t, from, to, 60, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, gopacket.Payload(append([]byte{0, 0, 5, 20}, inner...)))
}

func TestICMPErrorsAreTranslated(t *testing.T) {
	r := newRig(t, nil)
	router := map[bool]string{true: "203.0.113.1", false: "2001:db8:99::1"}
	for family, is4 := range families {
		for name, l4 := range map[string]gopacket.SerializableLayer{"TCP": tcp(4100, 80), "UDP": udp(4101, 53)} {
			_, out := r.run("to_net", frame(t, pod1[is4], remote[is4], 63, l4))
			v, back := r.run("from_net", quote(t, is4, router[is4], nodeIP[is4], out, 1000))
			f := parse(t, back)
			inner := append(make([]byte, 14), back[f.l4+8:]...)
			copy(inner[12:], back[12:14])
			g := parse(t, inner)
			if v != verdictRedirect || f.dst != pod1[is4] || f.src != router[is4] || g.src != pod1[is4] || g.dst != remote[is4] || g.sport < 4100 || g.sport > 4101 {
				t.Errorf("%s %s: verdict %d, error %+v about %+v", family, name, v, f, g)
			}
			checkSums(t, family+" "+name+" error", back)
			if is4 {
				if s := fold(add(inner[14:34])); s != 0xffff {
					t.Errorf("%s %s: quoted header sums to %04x", family, name, s)
				}
			}
			// The other way: the pod refuses what came back.
			reply := map[string]gopacket.SerializableLayer{"TCP": tcp(80, parse(t, out).sport), "UDP": udp(53, parse(t, out).sport)}[name]
			_, delivered := r.run("from_net", frame(t, remote[is4], nodeIP[is4], 63, reply))
			v, refusal := r.run("to_net", quote(t, is4, pod1[is4], remote[is4], delivered, 1000))
			f = parse(t, refusal)
			inner = append(make([]byte, 14), refusal[f.l4+8:]...)
			copy(inner[12:], refusal[12:14])
			g = parse(t, inner)
			if v != verdictNext || f.src != nodeIP[is4] || g.dst != nodeIP[is4] || g.dport != parse(t, out).sport {
				t.Errorf("%s %s: refusal: verdict %d, %+v about %+v", family, name, v, f, g)
			}
			checkSums(t, family+" "+name+" refusal", refusal)
		}
		// About a flow that never was: to the node it goes as it is.
		p := quote(t, is4, router[is4], nodeIP[is4], frame(t, nodeIP[is4], remote[is4], 60, tcp(9999, 80)), 1000)
		if v, out := r.run("from_net", p); v != verdictNext || !bytes.Equal(out, p) {
			t.Errorf("%s: an error about the node's own packet: verdict %d", family, v)
		}
	}
}

func TestFromPod(t *testing.T) {
	r := newRig(t, nil)
	for family, is4 := range families {
		v, out := r.run("from_pod", frame(t, pod1[is4], pod2[is4], 64, tcp(1, 2)))
		if f := parse(t, out); v != verdictRedirect || f.ttl != 63 || f.dst != pod2[is4] {
			t.Errorf("%s to a pod of the node: verdict %d, %+v", family, v, f)
		}
		checkSums(t, family, out)
		if v, _ := r.run("from_pod", frame(t, pod1[is4], pod2[is4], 1, tcp(1, 2))); v != verdictNext {
			t.Errorf("%s: with a hop limit of 1 the kernel has to answer: verdict %d", family, v)
		}
		for _, src := range []string{pod2[is4], nodeIP[is4], remote[is4], map[bool]string{true: "0.0.0.0", false: "::"}[is4]} {
			if v, _ := r.run("from_pod", frame(t, src, pod2[is4], 64, udp(1, 2))); v != verdictDrop {
				t.Errorf("%s: from %s: verdict %d", family, src, v)
			}
		}
		if v, _ := r.run("from_net", frame(t, pod2[is4], pod1[is4], 64, tcp(1, 2))); v != verdictDrop {
			t.Errorf("%s: a pod of this node from the wire: verdict %d", family, v)
		}
	}
	if v, _ := r.run("from_pod", frame(t, "fe80::1:2", "ff02::16", 1, udp(1, 2))); v != verdictNext {
		t.Errorf("multicast listener report: verdict %d", v)
	}
	if v, _ := r.run("from_pod", frame(t, "fe80::1:2", pod2[false], 64, udp(1, 2))); v != verdictDrop {
		t.Errorf("link-local source to a pod: verdict %d", v)
	}
}

// corpus is one packet of every kind.
func corpus(t testing.TB) map[string][]byte {
	out := map[string][]byte{}
	for family, is4 := range families {
		out[family+" TCP local"] = frame(t, pod1[is4], pod2[is4], 64, tcp(1, 2))
		out[family+" TCP out"] = frame(t, pod1[is4], remote[is4], 64, tcp(3, 4))
		out[family+" UDP in"] = frame(t, remote[is4], pod1[is4], 64, udp(3, 4))
		out[family+" UDP to node"] = frame(t, remote[is4], nodeIP[is4], 64, udp(3, 61000))
		out[family+" echo"] = frame(t, pod1[is4], remote[is4], 64, echo(is4, false, 9)...)
		out[family+" SCTP"] = frame(t, pod1[is4], remote[is4], 64, &layers.SCTP{SrcPort: 1, DstPort: 2})
		out[family+" error in"] = quote(t, is4, remote[is4], nodeIP[is4], frame(t, nodeIP[is4], remote[is4], 64, tcp(61000, 4)), 1000)
		out[family+" error out"] = quote(t, is4, pod1[is4], remote[is4], frame(t, remote[is4], pod1[is4], 64, tcp(4, 3)), 1000)
		out[family+" error to a pod"] = quote(t, is4, pod1[is4], pod2[is4], frame(t, pod2[is4], pod1[is4], 64, tcp(4, 3)), 1000)
	}
	return out
}

var programs = []string{"from_pod", "to_pod", "from_net", "to_net", "from_overlay", "to_overlay"}

// judge runs one packet through every program and checks what may never happen, whatever the packet is.
func judge(r *rig, packet []byte) error {
	for _, p := range programs {
		v, out := r.run(p, packet)
		if v != verdictNext && v != verdictDrop && v != verdictRedirect {
			return fmt.Errorf("%s: verdict %d", p, v)
		}
		if len(out) < 14 {
			return fmt.Errorf("%s: %d bytes left of %d", p, len(out), len(packet))
		}
		if v != verdictRedirect || p == "to_pod" {
			continue
		}
		// Redirected: then it was whole, as far as its own headers say.
		if len(packet) < 34 {
			return fmt.Errorf("%s: redirected %d bytes", p, len(packet))
		}
	}
	return nil
}

// TestTruncatedPackets cuts every packet at every length. A pod's packet without its headers is dropped and counted, never forwarded.
func TestTruncatedPackets(t *testing.T) {
	r := newRig(t, nil)
	for name, whole := range corpus(t) {
		headers := 14 + 20
		if strings.HasPrefix(name, "IPv6") {
			headers = 14 + 40
		}
		headers += map[bool]int{true: 20, false: 8}[strings.Contains(name, "TCP")]
		for n := 14; n <= len(whole); n++ {
			if err := judge(r, whole[:n]); err != nil {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
			v, _ := r.run("from_pod", whole[:n])
			if n < headers && v != verdictDrop {
				t.Errorf("%s cut to %d bytes: from_pod answers %d", name, n, v)
			}
		}
	}
}

// TestContradictoryLengths has headers that claim more or less than there is.
func TestContradictoryLengths(t *testing.T) {
	r := newRig(t, nil)
	for name, whole := range corpus(t) {
		for _, at := range []int{14, 16, 17, 18, 20, 21, 23, 34, 46, 54} {
			if at >= len(whole) {
				continue
			}
			for _, b := range []byte{0, 1, 0x0f, 0x40, 0x41, 0x4f, 0x60, 0x7f, 0xff} {
				p := bytes.Clone(whole)
				p[at] = b
				if err := judge(r, p); err != nil {
					t.Fatalf("%s with byte %d = %02x: %v", name, at, b, err)
				}
			}
		}
	}
}

func FuzzPrograms(f *testing.F) {
	for _, p := range corpus(f) {
		f.Add(p)
	}
	r := newRig(f, nil)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) < 14 || len(packet) > 1500 {
			return
		}
		r.t = t
		if err := judge(r, packet); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkPrograms times one packet of each common kind in each program that sees it: the programs' own cost, without what the kernel does before and after.
func BenchmarkPrograms(b *testing.B) {
	r := newRig(b, nil)
	for _, c := range []struct{ program, from, to string }{
		{"from_pod", pod1[true], pod2[true]}, {"from_pod", pod1[false], pod2[false]}, {"from_pod", pod1[true], farPod[true]},
		{"to_pod", remote[true], pod1[true]}, {"from_net", farPod[true], pod1[true]}, {"to_net", pod1[true], farPod[true]}, {"to_net", pod1[true], remote[true]},
	} {
		b.Run(c.program+" "+c.from+" to "+c.to, func(b *testing.B) {
			p := r.pod.Programs[c.program]
			if p == nil {
				p = r.net.Programs[c.program]
			}
			packet := frame(b, c.from, c.to, 255, tcp(1, 2))
			const repeat = 200 // fewer than there are hops to take
			best := time.Hour
			for b.Loop() {
				_, each, err := p.Benchmark(packet, repeat, nil)
				if err != nil {
					b.Fatal(err)
				}
				best = min(best, each)
			}
			b.ReportMetric(float64(best.Nanoseconds()), "ns/packet(best)")
		})
	}
}
