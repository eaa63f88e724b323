// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead/fairlead/hack/vm/guest"
)

func TestNewestKernelIsTheHighestNumber(t *testing.T) {
	got, err := newest([]string{
		"linux-image-6.12.9+deb12-cloud-amd64", "linux-image-6.12.43+deb12-cloud-amd64", "linux-image-6.12.95+deb12-amd64",
		"linux-image-6.12.95+deb12-cloud-amd64-unsigned", "linux-image-6.12.99-rt-amd64",
	})
	if err != nil || got != "linux-image-6.12.43+deb12-cloud-amd64" {
		t.Errorf("newest: %q, %v; want the cloud image 6.12.43", got, err)
	}
	if got, err := newest([]string{"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"}); err != nil || got != "linux-image-6.1.0-50-cloud-amd64" {
		t.Errorf("newest: %q, %v; want build 50", got, err)
	}
	if _, err := newest([]string{"linux-image-amd64"}); err == nil {
		t.Error("no cloud image, want an error")
	}
}

// TestImageIsACpioArchive reads the archive with the cpio of busybox, which did not write it.
func TestImageIsACpioArchive(t *testing.T) {
	im := NewImage()
	im.Write("/etc/odd", "12345") // not a multiple of four
	im.Write("/deep/er/file", "content")
	dir := t.TempDir()
	from := filepath.Join(dir, "tool")
	if err := os.WriteFile(from, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := im.Copy("/bin/tool", from); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if n, err := im.WriteTo(&archive); err != nil || n != int64(archive.Len()) {
		t.Fatalf("wrote %d of %d bytes, %v", n, archive.Len(), err)
	}
	file := filepath.Join(dir, "image.cpio")
	if err := os.WriteFile(file, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := run(context.Background(), out, "busybox", "cpio", "-idF", file); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/odd": "12345", "deep/er/file": "content", "bin/tool": "#!"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(out, "bin/tool")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode of the executable: %v, %v", info, err)
	}
}

func TestConsoleTellsWhatEnded(t *testing.T) {
	status, done := parse(strings.NewReader("boot\r\nvm-exit loader 0\r\n" + guest.ExitPrefix + "cluster 2\nvm-exit broken\n" + guest.DoneLine + "\n"))
	if !done || len(status) != 2 || status["loader"] != 0 || status["cluster"] != 2 {
		t.Errorf("status %v, done %t", status, done)
	}
	if _, done := parse(strings.NewReader("vm-exit loader 0\nKernel panic")); done {
		t.Error("a machine that panicked counts as done")
	}
}

func FuzzConsole(f *testing.F) {
	f.Add("vm-exit loader 0\nvm-done\n")
	f.Add(strings.Repeat("x", 1<<20+1) + "\nvm-done\n")
	f.Fuzz(func(t *testing.T, console string) {
		status, _ := parse(strings.NewReader(console))
		if len(status) > strings.Count(console, strings.TrimSpace(guest.ExitPrefix)) {
			t.Errorf("%d programs ended in %q", len(status), console)
		}
	})
}
