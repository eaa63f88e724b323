// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

func TestDropReasonsHaveNames(t *testing.T) {
	names, err := DropReasons()
	if err != nil {
		t.Fatal(err)
	}
	if names[uint64(BPFDropReasonDropNoBackend)] != "no_backend" {
		t.Errorf("names: %v", names)
	}
}

func TestProbe(t *testing.T) {
	if err := Probe(); err != nil {
		t.Fatal(err)
	}
}

// TestReload shows what a restarted agent relies on: maps keep their content, links their place, and the program is replaced.
func TestReload(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bpf")
	l, err := Open(Config{PinDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Uninstall(); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	spec, err := LoadBPF()
	if err != nil {
		t.Fatal(err)
	}
	coll, err := l.Load(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	values := make([]BPFDropCounter, ebpf.MustPossibleCPU())
	values[0].Packets = 7
	if err := coll.Maps[BPFMapDrops].Put(uint32(3), values); err != nil {
		t.Fatal(err)
	}
	coll.Close()

	again, err := Open(Config{PinDir: dir, MapSizes: map[string]uint32{BPFMapDrops: 128}})
	if err != nil {
		t.Fatal(err)
	}
	coll, err = again.Load(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	if err := coll.Maps[BPFMapDrops].Lookup(uint32(3), &values); err != nil || values[0].Packets != 7 {
		t.Fatalf("counter after reload: %v %v", values[0], err)
	}

	cg := cgroupDir(t)
	for round := range 2 {
		prog := allow(t)
		if err := again.AttachCgroup(prog, ebpf.AttachCGroupInet4Connect, cg, "connect4"); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		prog.Close()
	}
	names, err := again.LinkNames()
	if err != nil || len(names) != 1 || names[0] != "connect4" {
		t.Fatalf("links: %v %v", names, err)
	}
	// The cgroup goes away and comes back under another id: the link must follow.
	if err := os.Remove(cg); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(cg, 0o755); err != nil {
		t.Fatal(err)
	}
	prog := allow(t)
	defer prog.Close()
	if err := again.AttachCgroup(prog, ebpf.AttachCGroupInet4Connect, cg, "connect4"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := again.Detach("connect4"); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.AttachCgroup(prog, ebpf.AttachCGroupInet4Connect, dir, "wrong"); err == nil {
		t.Error("attached to a directory that is no cgroup")
	}
	if err := again.AttachTCX(prog, 1<<30, ebpf.AttachTCXIngress, "nodev"); err == nil {
		t.Error("attached to a device that does not exist")
	}
	var ke *KernelError
	if err := describe(&KernelError{Feature: "x", MinKernel: "9", Err: errors.New("no")}); !errors.As(err, &ke) {
		t.Errorf("describe hides the typed error: %v", err)
	}
}

func allow(t *testing.T) *ebpf.Program {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return prog
}

// cgroupDir makes an empty cgroup2 directory that the test's end removes.
func cgroupDir(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root = "/sys/fs/cgroup/unified"
	}
	dir, err := os.MkdirTemp(root, "fl-loader-")
	if err != nil {
		t.Fatalf("make a cgroup2 directory: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return dir
}
