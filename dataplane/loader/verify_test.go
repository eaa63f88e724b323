// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// verifierRecord is how many instructions the verifier processed for each program, on the kernel where that was accepted.
type verifierRecord struct {
	Kernel   string         `json:"kernel"` // major.minor; on others the numbers differ and are not compared
	Programs map[string]int `json:"programs"`
}

const verifierFile = "testdata/verifier.json"

// TestVerifier loads every program. One that costs the verifier over 10% more than recorded fails until the growth is accepted, by running the test with
// FAIRLEAD_ACCEPT_VERIFIER=1, which writes the record anew.
func TestVerifier(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	now := verifierRecord{Kernel: release[0] + "." + release[1], Programs: map[string]int{}}
	dir := filepath.Join(t.TempDir(), "bpf")
	l, err := Open(Config{PinDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Uninstall()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"sock": LoadSock, "uplink": LoadUplink, "xdp": LoadXDP, "pod": LoadPod, "net": LoadNet,
	} {
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
			now.Programs[p] = int(insns)
		}
		coll.Close()
	}
	if os.Getenv("FAIRLEAD_ACCEPT_VERIFIER") != "" {
		data, err := json.MarshalIndent(now, "", "  ")
		if err == nil {
			err = os.WriteFile(verifierFile, append(data, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	data, err := os.ReadFile(verifierFile)
	if err != nil {
		t.Fatal(err)
	}
	var accepted verifierRecord
	if err := json.Unmarshal(data, &accepted); err != nil {
		t.Fatal(err)
	}
	if accepted.Kernel != now.Kernel {
		t.Logf("recorded on kernel %s, this is %s: loaded, not compared", accepted.Kernel, now.Kernel)
		return
	}
	for p, n := range now.Programs {
		if was := accepted.Programs[p]; n > was+was/10 {
			t.Errorf("%s: the verifier processed %d instructions, accepted are %d", p, n, was)
		}
	}
}
