// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bzImage returns the beginning of a kernel's file with the given version string.
func bzImage(version string) []byte {
	b := make([]byte, 0x400)
	copy(b[headerMagicAt:], "HdrS")
	binary.LittleEndian.PutUint16(b[versionFieldAt:], 0x100)
	return append(b[:versionBase+0x100], version...)
}

func TestReleaseOfAKernelFile(t *testing.T) {
	for _, c := range []struct {
		what, want string
		image      []byte
	}{
		{"a kernel", "6.12.9-cloud", bzImage("6.12.9-cloud (builder@host) #1 SMP\x00rest")},
		{"no header", "", []byte("ELF")},
		{"another magic", "", make([]byte, 0x400)},
		{"a version that does not end", "", bzImage(strings.Repeat("6", maxVersion+1))},
		{"a file that ends in the version", "", bzImage("6.12")},
		{"a version that is a path", "", bzImage("../../etc\x00")},
		{"an empty version", "", bzImage("\x00")},
	} {
		got, err := releaseOf(bytes.NewReader(c.image))
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v; want %q", c.what, got, err, c.want)
		}
	}
}

func TestLocateFindsModulesBesideTheKernel(t *testing.T) {
	root := t.TempDir()
	image := filepath.Join(root, "boot", "vmlinuz")
	modules := filepath.Join(root, "lib", "modules", "6.12.9-here")
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, bzImage("6.12.9-here x\x00"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Locate(t.Context(), image, root); err == nil || !strings.Contains(err.Error(), modules) {
		t.Errorf("without modules: %v; want an error that says where they would be", err)
	}
	if err := os.MkdirAll(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	if k, err := Locate(t.Context(), image, root); err != nil || k != (Installed{Release: "6.12.9-here", Image: image, Modules: modules}) {
		t.Errorf("located %+v, %v", k, err)
	}
	if _, err := Locate(t.Context(), filepath.Join(root, "absent"), root); err == nil || !strings.Contains(err.Error(), "6.12") {
		t.Errorf("an absent file: %v; want an error that names Debian's kernels", err)
	}
}

func FuzzReleaseOf(f *testing.F) {
	f.Add(bzImage("6.1.0 x\x00"))
	f.Fuzz(func(t *testing.T, image []byte) {
		release, err := releaseOf(bytes.NewReader(image))
		if err == nil && (release == "" || len(release) >= maxVersion || strings.Contains(release, "/")) {
			t.Errorf("release %q", release)
		}
	})
}
