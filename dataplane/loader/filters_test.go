// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// verdict is a tc program that returns a number.
func verdict(t *testing.T, n int32) *ebpf.Program {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, n), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog
}

// TestFilters: without tcx, programs are filters: replaced in place, the first one asked first, another's left alone, gone with their name, with their pins and with Uninstall.
func TestFilters(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread is in another namespace
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (needs root): %v", err)
	}
	defer ns.Close()
	dir := filepath.Join(t.TempDir(), "bpf")
	open := func() *Loader {
		l, err := Open(Config{PinDir: dir, NoTCX: true})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	// A VLAN device has a dot in its name, which a bpffs does not take.
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0.100"}, PeerName: "peer"}); err != nil {
		t.Fatal(err)
	}
	dev, err := netlink.LinkByName("up0.100")
	if err != nil {
		t.Fatal(err)
	}
	index := dev.Attrs().Index
	filters := func(parent uint32) (ids []int) {
		t.Helper()
		list, err := netlink.FilterList(dev, parent)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			ids = append(ids, f.(*netlink.BpfFilter).Id)
		}
		return ids
	}
	id := func(p *ebpf.Program) int {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, _ := info.ID()
		return int(n)
	}
	expect := func(what string, parent uint32, want ...*ebpf.Program) {
		t.Helper()
		var ids []int
		for _, p := range want {
			ids = append(ids, id(p))
		}
		if got := filters(parent); !slices.Equal(got, ids) {
			t.Fatalf("%s: programs %v, want %v", what, got, ids)
		}
	}
	const in, out = netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS
	a, b, c, other := verdict(t, -1), verdict(t, -1), verdict(t, -1), verdict(t, -1)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.AttachTCX(a, index, ebpf.AttachTCXIngress, "net-up0.100-in"))
	must(l.AttachTCXFirst(b, index, ebpf.AttachTCXIngress, "uplink_in-up0.100"))
	must(l.AttachTCX(a, index, ebpf.AttachTCXEgress, "net-up0.100-out"))
	expect("first in front", in, b, a)
	expect("egress", out, a)
	must(open().AttachTCX(c, index, ebpf.AttachTCXIngress, "net-up0.100-in")) // another agent
	expect("replaced in place", in, b, c)
	if names, err := l.LinkNames(); err != nil || !slices.Equal(names, []string{"net-up0.100-in", "net-up0.100-out", "uplink_in-up0.100"}) {
		t.Fatalf("names %v %v", names, err)
	}
	must(netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: in, Handle: 1, Priority: 100, Protocol: unix.ETH_P_ALL}, Fd: other.FD(), Name: "theirs", DirectAction: true,
	}))
	for range 2 {
		must(l.Detach("net-up0.100-in"))
	}
	expect("detached", in, b, other)
	must(l.Uninstall())
	expect("another's filter stays", in, other)
	expect("uninstalled", out)
	must(netlink.FilterDel(&netlink.GenericFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: in, Handle: 1, Priority: 100, Protocol: unix.ETH_P_ALL}, FilterType: "bpf"}))
	l = open()
	must(l.AttachTCX(a, index, ebpf.AttachTCXIngress, "net-up0.100-in"))
	must(l.Uninstall())
	qdiscs, err := netlink.QdiscList(dev)
	must(err)
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			t.Error("our clsact qdisc was left behind")
		}
	}
	// A device that is gone, and one that took its name.
	l = open()
	must(l.AttachTCX(a, index, ebpf.AttachTCXIngress, "net-up0.100-in"))
	must(netlink.LinkDel(dev))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0.100"}, PeerName: "peer"}))
	dev, err = netlink.LinkByName("up0.100")
	must(err)
	must(l.AttachTCX(b, dev.Attrs().Index, ebpf.AttachTCXIngress, "net-up0.100-in"))
	expect("the new device", in, b)
	if names, err := l.LinkNames(); err != nil || len(names) != 1 {
		t.Fatalf("names %v %v", names, err)
	}
	must(l.Uninstall())
	// With tcx, links have the same names.
	if withTCX, err := Open(Config{PinDir: dir}); err != nil {
		t.Fatal(err)
	} else if withTCX.HaveTCX() {
		must(withTCX.AttachTCX(a, dev.Attrs().Index, ebpf.AttachTCXIngress, "net-up0.100-in"))
		if names, err := withTCX.LinkNames(); err != nil || !slices.Equal(names, []string{"net-up0.100-in"}) {
			t.Fatalf("names %v %v", names, err)
		}
		must(withTCX.Detach("net-up0.100-in"))
		must(withTCX.Uninstall())
	}
}
