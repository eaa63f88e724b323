// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// dispatched is what another node, whose address is node, makes of a client's TCP packet for the backend's node: docs/loadbalancer.md describes both forms.
func dispatched(t testing.TB, how Dispatch, node, backend string, p []byte) []byte {
	t.Helper()
	const tcp = 8080
	to := netip.MustParseAddr(backend)
	eth, ip := bytes.Clone(p[:14]), bytes.Clone(p[14:])
	if to.Is4() {
		ip = ip[:binary.BigEndian.Uint16(ip[2:])] // without Ethernet's padding
	}
	if how == DispatchIPIP {
		from := netip.MustParseAddr(node)
		var outer []byte
		if to.Is4() {
			outer = []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 4, 0, 0}
			binary.BigEndian.PutUint16(outer[2:], uint16(20+len(ip)))
		} else {
			outer = []byte{0x60, 0, 0, 0, 0, 0, 41, 64}
			binary.BigEndian.PutUint16(outer[4:], uint16(len(ip)))
		}
		outer = append(append(outer, from.AsSlice()...), to.AsSlice()...)
		if to.Is4() {
			binary.BigEndian.PutUint16(outer[10:], ipSum(outer))
		}
		return append(append(eth, outer...), ip...)
	}
	header, at := 20, 16
	if to.Is6() {
		header, at = 40, 24
	}
	service, port := bytes.Clone(ip[at:at+len(to.AsSlice())]), bytes.Clone(ip[header+2:header+4])
	copy(ip[at:], to.AsSlice())
	binary.BigEndian.PutUint16(ip[header+2:], tcp)
	if to.Is4() {
		out := append(bytes.Clone(ip[:20]), 158, 8, port[0], port[1])
		out = append(append(out, service...), ip[20:]...)
		out[0] = 0x47
		binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
		out[10], out[11] = 0, 0
		binary.BigEndian.PutUint16(out[10:], ipSum(out[:28]))
		binary.BigEndian.PutUint16(out[28+16:], 0)
		binary.BigEndian.PutUint16(out[28+16:], tcpSum(out[12:20], out[28:]))
		return append(eth, out...)
	}
	out := append(bytes.Clone(ip[:40]), ip[6], 2, 0x1e, 20, port[0], port[1], 0, 0)
	out = append(append(out, service...), ip[40:]...)
	out[6] = 60
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	binary.BigEndian.PutUint16(out[64+16:], 0)
	binary.BigEndian.PutUint16(out[64+16:], tcpSum(out[8:40], out[64:]))
	return append(eth, out...)
}

// ipSum is the Internet checksum (RFC 1071).
func ipSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 != 0 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// tcpSum is the checksum of a TCP segment between the addresses in addrs.
func tcpSum(addrs, segment []byte) uint16 {
	pseudo := append(bytes.Clone(addrs), 0, 6)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(segment)))
	return ipSum(append(pseudo, segment...))
}

// TestDSRArrives: a packet that another node dispatched becomes the client's own, towards the backend, and the answers are known; what the service does not admit or this node does
// not have is dropped, and what is for no service passes as it is.
func TestDSRArrives(t *testing.T) {
	for _, f := range []struct{ family, client, other, node, backend, host string }{
		{"IPv4", "198.51.100.9", "203.0.113.9", "192.0.2.77", "10.244.0.2", "10.244.0.3"},
		{"IPv6", "2001:db8:5::9", "2001:db8:6::9", "2001:db8::77", "fd00:10:244::2", "fd00:10:244::3"},
	} {
		for _, how := range []Dispatch{DispatchIPIP, DispatchOption} {
			t.Run(f.family+"/"+string(how), func(t *testing.T) {
				r := newRig(t)
				at := func(a string) string { return netip.AddrPortFrom(netip.MustParseAddr(a), 8080).String() }
				web := nodePort(svc("web", 80, tables.TCP, map[string]string{"IPv4": "10.96.0.10", "IPv6": "fd00:96::10"}[f.family]), 30080)
				some := nodePort(svc("some", 81, tables.TCP, web.ClusterIPs[0].String()), 30081)
				some.Type = tables.LoadBalancer
				extern := netip.MustParseAddr(map[string]string{"IPv4": "203.0.113.80", "IPv6": "2001:db8:7::80"}[f.family])
				some.Ingress = []tables.IngressIP{{Addr: extern}}
				some.SourceRanges = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(f.client), netip.MustParseAddr(f.client).BitLen())}
				r.apply(web, some, slice("web", tables.TCP, at(f.backend)), slice("some", tables.TCP, at(f.backend)), svc("in", 82, tables.TCP, web.ClusterIPs[0].String()),
					slice("in", tables.TCP, at(f.host)))
				sport := uint16(3999)
				sent := func(client, service string, port uint16, backend string) []byte {
					sport++ // each begins a connection
					return dispatched(t, how, f.node, backend, packet(t, client, service, syn(sport, port)))
				}
				in := sent(f.client, f.node, 30080, f.backend)
				verdict, out := r.in(in)
				if verdict != verdictTCNext {
					t.Fatalf("verdict %d", verdict)
				}
				got := parse(t, out)
				if got.src.String() != f.client || got.dst.String() != f.backend || got.sport != 4000 || got.dport != 8080 {
					t.Fatalf("became %+v", got)
				}
				if want := map[string]int{"IPv4": 14 + 20 + 20, "IPv6": 14 + 40 + 20}[f.family]; len(out) != want {
					t.Errorf("%d bytes long, want %d", len(out), want)
				}
				verdict, out = r.run(r.tcx.Programs[loader.UplinkProgUplinkOut], packet(t, f.backend, f.client, &layers.TCP{SrcPort: 8080, DstPort: 4000, SYN: true, ACK: true}))
				if got := parse(t, out); verdict != verdictTCNext || got.src.String() != f.node || got.sport != 30080 {
					t.Errorf("the answer leaves as %s:%d, want %s:30080", got.src, got.sport, f.node)
				}
				for _, c := range []struct {
					what    string
					packet  []byte
					verdict uint32
				}{
					{"a client that the source ranges admit", sent(f.client, extern.String(), 81, f.backend), verdictTCNext},
					{"one that they do not", sent(f.other, extern.String(), 81, f.backend), verdictTCDrop},
					{"a backend of another service", sent(f.client, f.node, 30080, f.host), verdictTCDrop},
					{"a port that no service has", sent(f.client, f.node, 30099, f.backend), verdictTCNext},
					{"an address that runs nothing here", sent(f.client, f.node, 30080, map[string]string{"IPv4": "10.244.9.9", "IPv6": "fd00:10:244:9::9"}[f.family]), verdictTCNext},
				} {
					verdict, out := r.in(c.packet)
					if verdict != c.verdict {
						t.Errorf("%s: verdict %d, want %d", c.what, int32(verdict), int32(c.verdict))
					}
					if c.verdict == verdictTCNext && c.what[:2] == "an" && !bytes.Equal(out, c.packet) {
						t.Errorf("%s: the packet was changed", c.what)
					}
				}
				// The backend left: nothing is sent there any more, and this node says so by silence, so that the client's next try may go elsewhere.
				gone := slice("web", tables.TCP, at(f.backend))
				gone.Endpoints = nil
				r.apply(gone)
				if verdict, _ := r.in(dispatched(t, how, f.node, f.backend, packet(t, f.client, f.node, syn(5000, 30080)))); verdict != verdictTCDrop {
					t.Errorf("a backend that left: verdict %d, want a drop", int32(verdict))
				}
				r.sameHere(1) // that of "some"
			})
		}
	}
}

// sameHere checks that local_backends has n entries, all of them the reconciler's.
func (r *rig) sameHere(n int) {
	r.t.Helper()
	var k loader.BPFLocalBackendKey
	var row uint32
	found := 0
	for it := r.rec.k.here.Iterate(); it.Next(&k, &row); found++ {
		if b := r.rec.k.backends[row]; b.Addr != k.Addr || b.Service != k.Service || b.Flags&backendOnNode == 0 {
			r.t.Errorf("%s of service port %d leads to %+v", netip.AddrFrom16(k.Addr.B), k.Service, b)
		}
	}
	if found != n {
		r.t.Errorf("%d entries in local_backends, want %d", found, n)
	}
}
