// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// oldLayout makes the maps of an invented earlier layout: ct_tcp with its fields in another order, a narrower service, a field that is no longer, preallocated otherwise; services and
// backends as they are now; ct_any of types nobody knows.
func oldLayout(t *testing.T, dir string) (tcp, services *ebpf.Map) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec, err := LoadBPF()
	if err != nil {
		t.Fatal(err)
	}
	pin := func(name string, m *ebpf.MapSpec) *ebpf.Map {
		t.Helper()
		m.Pinning = ebpf.PinNone
		made, err := ebpf.NewMap(m)
		if err == nil {
			err = made.Pin(filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(func() { made.Close() })
		return made
	}
	services = pin("services", spec.Maps["services"].Copy())
	pin("backends", spec.Maps["backends"].Copy())
	pin("sock_peers", spec.Maps["sock_peers"].Copy())
	now := spec.Maps["ct_tcp"].Copy()
	key, value := now.Key.(*btf.Struct), now.Value.(*btf.Struct)
	field := map[string]btf.Type{}
	for _, m := range value.Members {
		field[m.Name] = m.Type
	}
	u16, u32 := &btf.Int{Name: "u16", Size: 2}, &btf.Int{Name: "u32", Size: 4}
	now.Value = &btf.Struct{Name: value.Name, Size: 56, Members: []btf.Member{
		{Name: "service", Type: u16, Offset: 0},
		{Name: "forgotten", Type: u16, Offset: 2 * 8},
		{Name: "daddr", Type: field["daddr"], Offset: 4 * 8},
		{Name: "saddr", Type: field["saddr"], Offset: 20 * 8},
		{Name: "dport", Type: field["dport"], Offset: 36 * 8},
		{Name: "sport", Type: field["sport"], Offset: 38 * 8},
		{Name: "backend", Type: u32, Offset: 40 * 8},
		{Name: "state", Type: field["state"], Offset: 44 * 8},
		{Name: "flags", Type: field["flags"], Offset: 45 * 8},
		{Name: "last", Type: u32, Offset: 48 * 8},
	}}
	now.Key, now.ValueSize, now.MaxEntries = key, 56, 1000
	now.Flags ^= unix.BPF_F_NO_PREALLOC
	return pin("ct_tcp", now), services
}

func oldEntry(service uint16, port byte) (key BPFCtKey, value []byte) {
	key = BPFCtKey{Sport: Htons(uint16(port)), Proto: 6}
	key.Saddr.B[15], key.Daddr.B[15] = 7, 9
	v := make([]byte, 56)
	binary.NativeEndian.PutUint16(v[0:], service)
	binary.NativeEndian.PutUint16(v[2:], 0xffff)
	v[4+15], v[20+15] = 11, 12
	v[36], v[37], v[38], v[39] = 0x1f, 0x90, 0, 80
	binary.NativeEndian.PutUint32(v[40:], 77)
	v[44], v[45] = byte(BPFCtStateCtEstablished), 0x11
	binary.NativeEndian.PutUint32(v[48:], 1234)
	return key, v
}

// openInTemp opens a loader that keeps everything below a directory of the test, and takes it all away at the test's end.
func openInTemp(t *testing.T) (l *Loader, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "bpf")
	l, err := Open(Config{PinDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Uninstall(); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return l, dir
}

// TestMigration: a release whose layout differs takes every entry over, those too that old programs add while they are replaced, shares what did not change, and leaves nothing behind.
func TestMigration(t *testing.T) {
	l, dir := openInTemp(t)
	oldDir := filepath.Join(dir, "maps-v0")
	tcp, services := oldLayout(t, oldDir)
	put := func(service uint16, port byte) BPFCtKey {
		t.Helper()
		k, v := oldEntry(service, port)
		if err := tcp.Put(k, v); err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := put(5, 1)
	for port := byte(2); port < 200; port++ {
		put(6, port)
	}
	spec, err := LoadBPF()
	if err != nil {
		t.Fatal(err)
	}
	coll, err := l.Load(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	want := BPFCt{Sport: Htons(80), Dport: Htons(8080), Service: 5, Backend: 77, Last: 1234, State: uint8(BPFCtStateCtEstablished), Flags: 0x11}
	want.Sport, want.Dport = Htons(80), Htons(8080)
	want.Daddr.B[15], want.Saddr.B[15] = 11, 12
	check := func(key BPFCtKey, want BPFCt) {
		t.Helper()
		var got BPFCt
		if err := coll.Maps[BPFMapCtTcp].Lookup(key, &got); err != nil || got != want {
			t.Fatalf("entry carried over: %+v %v, want %+v", got, err, want)
		}
	}
	check(first, want)
	count := func() (n int) {
		var k BPFCtKey
		var v BPFCt
		it := coll.Maps[BPFMapCtTcp].Iterate()
		for it.Next(&k, &v) {
			n++
		}
		if it.Err() != nil {
			t.Fatal(it.Err())
		}
		return n
	}
	if n := count(); n != 199 {
		t.Fatalf("%d entries carried over, want 199", n)
	}
	// What did not change in shape is the same map: a write of one release is seen by the other.
	if err := services.Put(BPFServiceKey{Port: 7}, BPFService{Id: 9}); err != nil {
		t.Fatal(err)
	}
	var s BPFService
	if err := coll.Maps[BPFMapServices].Lookup(BPFServiceKey{Port: 7}, &s); err != nil || s.Id != 9 {
		t.Fatalf("services are not shared: %+v %v", s, err)
	}
	// Old programs go on until they are replaced. What the new ones wrote since must not be overwritten.
	late := put(8, 250)
	newer := want
	newer.Last = 5555
	if err := coll.Maps[BPFMapCtTcp].Put(first, newer); err != nil {
		t.Fatal(err)
	}
	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
	check(first, newer)
	want.Service = 8
	check(late, want)
	if n := count(); n != 200 {
		t.Fatalf("%d entries after settling, want 200", n)
	}
	if _, err := os.Stat(oldDir); !os.IsNotExist(err) {
		t.Errorf("the old layout's directory: %v", err)
	}
	if err := l.Settle(); err != nil {
		t.Errorf("settling again: %v", err)
	}
	// The next agent of this release finds its own maps.
	again, err := l.Load(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestMigrationOfEveryMap: the layout of this release is taken over whole by a release that calls it something else.
func TestMigrationOfEveryMap(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bpf")
	l, err := Open(Config{PinDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Uninstall()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	ids := map[string]ebpf.MapID{}
	load := func(round int) {
		for _, from := range []func() (*ebpf.CollectionSpec, error){LoadBPF, LoadSock, LoadUplink, LoadXDP, LoadPod, LoadNet} {
			spec, err := from()
			if err != nil {
				t.Fatal(err)
			}
			coll, err := l.Load(spec, nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, m := range coll.Maps {
				if spec.Maps[name].Pinning != ebpf.PinByName {
					continue
				}
				info, err := m.Info()
				if err != nil {
					t.Fatal(err)
				}
				id, _ := info.ID()
				if was, ok := ids[name]; ok && was != id {
					t.Errorf("round %d: map %s is another one", round, name)
				}
				ids[name] = id
			}
			coll.Close()
		}
	}
	load(1)
	if err := os.Rename(l.maps, filepath.Join(dir, "maps-v99")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.maps, 0o700); err != nil {
		t.Fatal(err)
	}
	load(2)
	if len(ids) < 20 {
		t.Errorf("only %d maps were seen", len(ids))
	}
	if err := l.Settle(); err != nil {
		t.Fatal(err)
	}
}
