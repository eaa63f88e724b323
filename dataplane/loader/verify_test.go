// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestVerifier loads every program and logs what the verifier had to do for it.
func TestVerifier(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bpf")
	l, err := Open(Config{PinDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Uninstall()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){"sock": LoadSock, "uplink": LoadUplink, "xdp": LoadXDP} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		coll, err := l.Load(spec, NodeConstants(NodeFacts{}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for p, prog := range coll.Programs {
			info, err := prog.Info()
			if err != nil {
				t.Fatal(err)
			}
			insns, _ := info.VerifiedInstructions()
			t.Logf("%-8s %-20s %7d instructions processed", name, p, insns)
		}
		coll.Close()
	}
}
