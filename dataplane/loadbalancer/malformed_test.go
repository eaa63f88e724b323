// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// seedPackets are well-formed packets of every kind that the programs look into.
func seedPackets(t testing.TB) [][]byte {
	quoted := packet(t, "10.96.0.10", "198.51.100.9", &layers.UDP{SrcPort: 53, DstPort: 4000}, gopacket.Payload("12345678"))[14:]
	return [][]byte{
		packet(t, "198.51.100.9", "10.96.0.10", syn(4000, 80)),
		packet(t, "2001:db8::9", "fd00:96::10", syn(4000, 80)),
		packet(t, "198.51.100.9", "10.96.0.10", &layers.UDP{SrcPort: 4000, DstPort: 53}, gopacket.Payload("question")),
		packet(t, "198.51.100.9", "10.96.0.10", &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, gopacket.Payload("ping")),
		packet(t, "2001:db8::9", "fd00:96::10", &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}, gopacket.Payload("\x00\x01\x00\x01ping")),
		packet(t, "198.51.100.7", "10.96.0.10", &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)}, gopacket.Payload(quoted)),
		dispatched(t, DispatchIPIP, "192.0.2.200", "10.244.0.2", packet(t, "198.51.100.9", "192.0.2.77", syn(4000, 30080))),
		dispatched(t, DispatchIPIP, "2001:db8::200", "fd00:10:244::2", packet(t, "2001:db8::9", "2001:db8::77", syn(4000, 30080))),
		dispatched(t, DispatchOption, "", "10.244.0.2", packet(t, "198.51.100.9", "192.0.2.77", syn(4000, 30080))),
		dispatched(t, DispatchOption, "", "fd00:10:244::2", packet(t, "2001:db8::9", "2001:db8::77", syn(4000, 30080))),
	}
}

// fuzzed is a rig with all that takes packets: the pod network's programs too, over the same connections, with the client as one of this node's pods.
type fuzzed struct {
	*rig
	tc []*ebpf.Program
}

func malformedRig(t testing.TB) *fuzzed {
	r := &fuzzed{rig: newRig(t)}
	for _, c := range []*ebpf.Collection{r.tcx, r.load(loader.LoadPod), r.load(loader.LoadNet)} {
		for _, p := range c.Programs {
			r.tc = append(r.tc, p)
		}
		if m := c.Maps["endpoints"]; m != nil {
			for _, a := range []string{"198.51.100.9", "2001:db8::9"} { // test runs come in by lo, device 1
				if err := m.Put(loader.Addr(netip.MustParseAddr(a).As16()), loader.NetEndpoint{Ifindex: 1}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if len(r.tc) != 8 {
		t.Fatalf("%d tc programs, 8 are known", len(r.tc))
	}
	r.apply(nodePort(svc("web", 80, tables.TCP, "10.96.0.10", "fd00:96::10"), 30080), svc("dns", 53, tables.UDP, "10.96.0.10"),
		slice("web", tables.TCP, "10.244.0.2:8080"), slice("web", tables.TCP, "[fd00:10:244::2]:8080"), slice("dns", tables.UDP, "10.244.0.2:5353"))
	return r
}

// survives runs a packet through every program: any verdict is fine, as long as it is one, and what is translated stays as long as it was.
func (r *fuzzed) survives(p []byte) {
	r.t.Helper()
	if len(p) < 15 {
		return // the kernel refuses test packets without anything behind the Ethernet header
	}
	header := map[string]int{"\x08\x00": 34, "\x86\xdd": 54}[string(p[12:14])]
	for _, prog := range r.tc {
		if len(p) < header {
			break // the kernel makes no socket buffer of less than an IP header
		}
		switch v, _ := r.run(prog, p); v {
		case verdictTCNext, verdictTCDrop, verdictTCRedir:
		default:
			r.t.Fatalf("%s: verdict %d on % x", prog, v, p)
		}
	}
	switch v, _ := r.xdpIn(p); v {
	case verdictXDPDrop, verdictXDPPass, verdictXDPTx, 4:
	default:
		r.t.Fatalf("XDP verdict %d on % x", v, p)
	}
}

// TestTruncated cuts every kind of packet at every length and flips bytes at random.
func TestTruncated(t *testing.T) {
	r := malformedRig(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, p := range seedPackets(t) {
		for n := 14; n <= len(p); n++ {
			r.survives(p[:n])
		}
		for range 3000 {
			q := append([]byte(nil), p...)
			for range 1 + rnd.IntN(4) {
				q[12+rnd.IntN(len(q)-12)] = byte(rnd.Uint32())
			}
			r.survives(q)
		}
	}
	// Truncation is noticed where the destination could be read: nothing of it counts as forwarded.
	before := r.counter(loader.BPFLbCounterIndexLbForwarded)
	p := packet(t, "198.51.100.9", "10.96.0.10", syn(4001, 80))
	for n := 14; n < 14+20+20; n++ { // what is behind is Ethernet padding
		r.survives(p[:n])
	}
	if after := r.counter(loader.BPFLbCounterIndexLbForwarded); after != before {
		t.Errorf("%d truncated packets were forwarded", after-before)
	}
}

func (r *rig) counter(i loader.BPFLbCounterIndex) (sum uint64) {
	var per []uint64
	if err := r.maps[loader.BPFMapLbCounters].Lookup(uint32(i), &per); err != nil {
		r.t.Fatal(err)
	}
	for _, v := range per {
		sum += v
	}
	return sum
}

func FuzzPacket(f *testing.F) {
	for _, p := range seedPackets(f) {
		f.Add(p)
	}
	r := malformedRig(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 1500 {
			t.Skip()
		}
		r.t = t
		r.survives(p)
	})
}
