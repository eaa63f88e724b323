// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
)

func TestNote(t *testing.T) {
	var note Note
	of := func(avg60 float64) *cgroups.Pressure { return &cgroups.Pressure{Some: cgroups.Stall{Avg60: avg60}} }
	for i, step := range []struct {
		cpu, memory, io *cgroups.Pressure
		want            string
	}{
		{nil, nil, nil, "cpu=0,memory=0,io=0"},
		{of(4.4), of(0), of(50), "cpu=0,memory=0,io=50"}, // less than five points is no news
		{of(5), of(0), of(54.4), "cpu=5,memory=0,io=50"},
		{of(9.4), of(12), of(45), "cpu=5,memory=12,io=45"},
		{of(0.2), of(11), of(100), "cpu=0,memory=12,io=100"}, // gone is news
	} {
		if got := note.Update(step.cpu, step.memory, step.io); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}

func TestParseDevices(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
  eth0: 10 11 12 13 0 0 0 0 20 21 22 23 0 0 0 0
broken: 1 2
`
	got := parseDevices(text)
	if len(got) != 1 || got[0] != (device{"eth0", 10, 11, 12, 13, 20, 21, 22, 23}) {
		t.Errorf("%+v", got)
	}
}

func FuzzParseDevices(f *testing.F) {
	f.Add("eth0: 10 11 12 13 0 0 0 0 20 21 22 23\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, d := range parseDevices(text) {
			if d.name == "lo" {
				t.Error("the loopback interface")
			}
		}
	})
}

func TestCountDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/file"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	before := countDir(dir)
	if before.inodes != 4 || before.bytes < 1<<20 || before.bytes > 2<<20 {
		t.Errorf("%+v", before)
	}
	if err := os.Link(filepath.Join(dir, "a/file"), filepath.Join(dir, "a/again")); err != nil {
		t.Fatal(err)
	}
	if after := countDir(dir); after.inodes != 4 || after.bytes-before.bytes > 4096 {
		t.Errorf("a second name of a file counts: %+v after %+v", after, before)
	}
}
