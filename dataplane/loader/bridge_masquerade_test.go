// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// oldMasquerade pins a table of another layout: the same fields of struct masq_key, with both addresses in each other's place, and for masquerade those of struct masq_entry with the
// address last.
func oldMasquerade(t *testing.T, dir, name string) *ebpf.Map {
	t.Helper()
	spec, err := LoadNet()
	if err != nil {
		t.Fatal(err)
	}
	old := spec.Maps[name].Copy()
	swap := func(in btf.Type, order ...string) btf.Type {
		was := in.(*btf.Struct)
		by := map[string]btf.Member{}
		for _, m := range was.Members {
			by[m.Name] = m
		}
		out := &btf.Struct{Name: was.Name, Size: was.Size}
		at := uint32(0)
		for _, name := range order {
			n, err := btf.Sizeof(by[name].Type)
			if err != nil {
				t.Fatalf("%s.%s: %v", was.Name, name, err)
			}
			out.Members = append(out.Members, btf.Member{Name: name, Type: by[name].Type, Offset: btf.Bits(at * 8)})
			at += uint32(n)
		}
		if at != was.Size || len(by) != len(order) {
			t.Fatalf("%s has %d bytes in %d fields, the test knows %d in %d", was.Name, was.Size, len(by), at, len(order))
		}
		return out
	}
	old.Key = swap(old.Key, "remote", "local", "lport", "rport", "proto", "dir", "pad")
	if name == "masquerade" {
		old.Value = swap(old.Value, "last", "port", "pad", "addr")
	}
	old.Pinning = ebpf.PinNone
	m, err := ebpf.NewMap(old)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.Pin(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestBridgeMasquerade is TestBridge for what leaves the cluster: a flow that only the old table knows keeps its port, one that begins is in both with both its entries, and what
// the outside opened keeps its address, whichever table remembers that.
func TestBridgeMasquerade(t *testing.T) {
	l, dir := openInTemp(t)
	oldDir := filepath.Join(dir, "maps-v0")
	oldLayout(t, oldDir)
	oldMasq, oldInbound := oldMasquerade(t, oldDir, "masquerade"), oldMasquerade(t, oldDir, "inbound")
	spec, err := LoadNet()
	if err != nil {
		t.Fatal(err)
	}
	coll, err := l.Load(spec, NodeConstants(NodeFacts{}))
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()

	// A pod of this node, and the device that test runs use, lo, as the uplink.
	pod, node, remote := netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("198.51.100.9:443")
	const lo, fromOutside, fromPod = 1, "from_net", "to_net"
	for name, put := range map[string]struct{ key, value any }{
		"endpoints": {Addr(pod.As16()), NetEndpoint{Ifindex: lo}},
		"uplinks":   {uint32(lo), NetUplink{Addr4: NetAddr(Addr(node.As16()))}},
	} {
		if err := coll.Maps[name].Put(put.key, put.value); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	send := func(prog string, src, dst netip.AddrPort) (from netip.AddrPort) {
		t.Helper()
		in := tcpPacket(src, dst, 16)
		out := make([]byte, len(in)+64)
		if _, err := coll.Programs[prog].Run(&ebpf.RunOptions{Data: in, DataOut: out}); err != nil {
			t.Fatal(err)
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(out[26:30])), binary.BigEndian.Uint16(out[34:]))
	}
	const dirOut, dirIn = 0, 1
	oldKey := func(local, remote netip.AddrPort, dir byte) []byte {
		r, l := remote.Addr().As16(), local.Addr().As16()
		k := append(append([]byte{}, r[:]...), l[:]...)
		k = binary.BigEndian.AppendUint16(k, local.Port())
		k = binary.BigEndian.AppendUint16(k, remote.Port())
		return append(k, 6, dir, 0, 0)
	}
	oldEntry := func(to netip.AddrPort) []byte {
		a := to.Addr().As16()
		e := binary.BigEndian.AppendUint16(make([]byte, 8), to.Port())
		return append(append(e, make([]byte, 6)...), a[:]...)
	}
	entryAddr := func(e []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(e[16:])).Unmap(), binary.BigEndian.Uint16(e[8:]))
	}

	// A flow that an old program began.
	known, as := netip.AddrPortFrom(pod, 5000), netip.AddrPortFrom(node, 61234)
	for key, value := range map[string][]byte{string(oldKey(known, remote, dirOut)): oldEntry(as), string(oldKey(as, remote, dirIn)): oldEntry(known)} {
		if err := oldMasq.Put([]byte(key), value); err != nil {
			t.Fatal(err)
		}
	}
	if from := send(fromPod, known, remote); from != as {
		t.Fatalf("a flow that only the old table has leaves as %v, want %v", from, as)
	}

	// One that begins now.
	second := netip.AddrPortFrom(pod, 5001)
	from := send(fromPod, second, remote)
	if from.Addr() != node || from == as {
		t.Fatalf("a new flow leaves as %v, want another port of %v than %d", from, node, as.Port())
	}
	for direction, c := range map[string]struct {
		key  []byte
		want netip.AddrPort
	}{"out": {oldKey(second, remote, dirOut), from}, "in": {oldKey(from, remote, dirIn), second}} {
		var e []byte
		if err := oldMasq.Lookup(c.key, &e); err != nil {
			t.Errorf("an old program would not know the flow, %s: %v", direction, err)
		} else if got := entryAddr(e); got != c.want {
			t.Errorf("told to the old table, %s: %v, want %v", direction, got, c.want)
		}
	}

	// What the outside opens towards a pod's own address: noted by an old program, then by a new one.
	opened := netip.AddrPortFrom(pod, 80)
	if err := oldInbound.Put(oldKey(opened, remote, dirIn), uint64(1)); err != nil {
		t.Fatal(err)
	}
	if from := send(fromPod, opened, remote); from != opened {
		t.Errorf("an answer to what an old program let in leaves as %v, want %v", from, opened)
	}
	other := netip.AddrPortFrom(pod, 81)
	send(fromOutside, remote, other)
	var seen uint64
	if err := oldInbound.Lookup(oldKey(other, remote, dirIn), &seen); err != nil || seen == 0 {
		t.Errorf("an old program would not know what a new one let in: %d %v", seen, err)
	}

	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
	third := netip.AddrPortFrom(pod, 5002)
	if from := send(fromPod, third, remote); from.Addr() != node {
		t.Fatalf("after settling a new flow leaves as %v", from)
	}
	var e []byte
	if err := oldMasq.Lookup(oldKey(third, remote, dirOut), &e); err == nil {
		t.Error("the old table is still written to")
	}
}
