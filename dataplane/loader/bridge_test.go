// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
)

// tcpPacket is an Ethernet frame with an IPv4 TCP segment without payload. Checksums are zero: the programs mend them, and never read them.
func tcpPacket(src, dst netip.AddrPort, flags byte) []byte {
	p := make([]byte, 14+20+20)
	p[12], p[13] = 8, 0
	ip, tcp := p[14:], p[34:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, 40, 64, 6
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(tcp[0:], src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	tcp[12], tcp[13] = 5<<4, flags
	return p
}

// TestBridge: while another layout is there, whose fields stand elsewhere, a packet finds a connection that only the old table knows, a connection that begins is in both, and after
// Settle nobody looks there any more. Both packet programs of the uplink.
func TestBridge(t *testing.T) {
	for name, from := range map[string]func() (*ebpf.CollectionSpec, error){UplinkProgUplinkIn: LoadUplink, XDPProgUplinkXdp: LoadXDP} {
		t.Run(name, func(t *testing.T) { bridgeOf(t, name, from) })
	}
}

func bridgeOf(t *testing.T, prog string, from func() (*ebpf.CollectionSpec, error)) {
	l, dir := openInTemp(t)
	oldDir := filepath.Join(dir, "maps-v0")
	old, _ := oldLayout(t, oldDir)
	spec, err := from()
	if err != nil {
		t.Fatal(err)
	}
	coll, err := l.Load(spec, NodeConstants(NodeFacts{}))
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()

	// A service of one backend on this node.
	client, vip := netip.MustParseAddrPort("192.0.2.2:5000"), netip.MustParseAddrPort("10.96.0.10:80")
	back := netip.MustParseAddrPort("10.244.0.5:8080")
	all := BPFVipBits{}
	for i := range all.Bits {
		all.Bits[i] = ^uint64(0)
	}
	const live, onNode, cluster = 8, 4, 1
	row := BPFBackend{Addr: Addr(back.Addr().As16()), Port: Htons(back.Port()), Flags: live | onNode | cluster, Weight: 1, Service: 1, Generation: 3}
	for _, put := range []struct {
		m          string
		key, value any
	}{
		{BPFMapVipFilter, uint32(0), all},
		{BPFMapBackends, uint32(1), row},
		{BPFMapSlots, uint32(0), BPFSlotElem{Id: [16]uint32{1}}},
		{BPFMapServices, BPFServiceKey{Addr: Addr(vip.Addr().As16()), Port: Htons(vip.Port()), Proto: 6},
			BPFService{Id: 1, Out: BPFSlotRun{Count: 1}, In: BPFSlotRun{Count: 1}}},
	} {
		if err := coll.Maps[put.m].Put(put.key, put.value); err != nil {
			t.Fatalf("%s: %v", put.m, err)
		}
	}
	const syn, ack = 2, 16
	send := func(src netip.AddrPort, flags byte) (dst netip.AddrPort) {
		t.Helper()
		in := tcpPacket(src, vip, flags)
		out := make([]byte, len(in)+64)
		if _, err := coll.Programs[prog].Run(&ebpf.RunOptions{Data: in, DataOut: out}); err != nil {
			t.Fatal(err)
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(out[30:34])), binary.BigEndian.Uint16(out[36:]))
	}
	keyOf := func(a, b netip.AddrPort) BPFCtKey {
		return BPFCtKey{Saddr: Addr(a.Addr().As16()), Daddr: Addr(b.Addr().As16()), Sport: Htons(a.Port()), Dport: Htons(b.Port()), Proto: 6}
	}

	// A connection that an old program began, to a backend that the service no longer names: nothing but its entry leads there.
	left := netip.MustParseAddrPort("10.244.0.9:9090")
	gone := row
	gone.Flags, gone.Addr, gone.Port, gone.Generation = live|onNode, Addr(left.Addr().As16()), Htons(left.Port()), 0 // the earlier layout knew no generation
	if err := coll.Maps[BPFMapBackends].Put(uint32(2), gone); err != nil {
		t.Fatal(err)
	}
	entry := make([]byte, 56) // as oldLayout has it
	binary.NativeEndian.PutUint16(entry[0:], 1)
	to, as := Addr(left.Addr().As16()), Addr(client.Addr().As16())
	copy(entry[4:], to.B[:])
	copy(entry[20:], as.B[:])
	binary.BigEndian.PutUint16(entry[36:], left.Port())
	binary.BigEndian.PutUint16(entry[38:], client.Port())
	binary.NativeEndian.PutUint32(entry[40:], 2)
	entry[44], entry[45] = byte(BPFCtStateCtEstablished), 0x10 // CT_ON_NODE
	if err := old.Put(keyOf(client, vip), entry); err != nil {
		t.Fatal(err)
	}
	if dst := send(client, ack); dst != left {
		t.Fatalf("a segment of a connection that only the old table has goes to %v, want %v", dst, left)
	}
	var now BPFCt
	if err := coll.Maps[BPFMapCtTcp].Lookup(keyOf(client, vip), &now); err != nil || now.Backend != 2 || now.Service != 1 || now.Daddr != to {
		t.Errorf("taken over as %+v %v", now, err)
	}

	// A connection that begins now.
	second := netip.AddrPortFrom(client.Addr(), 5001)
	if dst := send(second, syn); dst != back {
		t.Fatalf("a new connection goes to %v, want %v", dst, back)
	}
	for direction, key := range map[string]BPFCtKey{"forward": keyOf(second, vip), "reply": keyOf(back, second)} {
		var was []byte
		if err := old.Lookup(key, &was); err != nil {
			t.Errorf("an old program would not know the connection, %s: %v", direction, err)
			continue
		}
		if got := binary.NativeEndian.Uint32(was[40:]); got != 1 || binary.NativeEndian.Uint16(was[0:]) != 1 {
			t.Errorf("told to the old table, %s: backend %d service %d, want 1 and 1", direction, got, binary.NativeEndian.Uint16(was[0:]))
		}
	}

	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
	third := netip.AddrPortFrom(client.Addr(), 5002)
	if dst := send(third, syn); dst != back {
		t.Fatalf("after settling a new connection goes to %v, want %v", dst, back)
	}
	var was []byte
	if err := old.Lookup(keyOf(third, vip), &was); err == nil {
		t.Error("the old table is still written to")
	}
	if err := coll.Maps[BPFMapCtTcp].Lookup(keyOf(third, vip), &now); err != nil {
		t.Errorf("the new table is not: %v", err)
	}
}
