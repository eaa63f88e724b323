// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWriteAtomically(t *testing.T) {
	dir := t.TempDir()
	write := func(files map[string]File) {
		t.Helper()
		if err := WriteAtomically(dir, files, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(map[string]File{"a": {Data: []byte("1"), Mode: 0o644}, "d/b": {Data: []byte("2"), Mode: 0o600}})
	if read(t, filepath.Join(dir, "a")) != "1" || read(t, filepath.Join(dir, "d/b")) != "2" {
		t.Error("content is not there")
	}
	first, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	write(map[string]File{"a": {Data: []byte("1"), Mode: 0o644}, "d/b": {Data: []byte("2"), Mode: 0o600}})
	if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != first {
		t.Error("the same content was written anew")
	}
	write(map[string]File{"a": {Data: []byte("3"), Mode: 0o644}})
	if read(t, filepath.Join(dir, "a")) != "3" {
		t.Error("new content is not there")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 { // a, ..data and what it points to
		t.Errorf("left over: %v", entries)
	}
	for _, bad := range []string{"", "/a", "../a", "a/../../b", "..a"} {
		if err := WriteAtomically(dir, map[string]File{bad: {}}, nil); err == nil {
			t.Errorf("path %q was accepted", bad)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, seed := range []string{"a/b", "../a", "/a", "a/../b", ".."} {
		f.Add(seed)
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			return
		}
		if relative, err := filepath.Rel(root, filepath.Join(root, name)); err != nil || relative == ".." || len(relative) > 2 && relative[:3] == "../" {
			t.Errorf("%q leads to %q", name, relative)
		}
	})
}

func TestOpenBeneath(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	for link, target := range map[string]string{"out": outside, "up": "../..", "in": "dir"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct { // in this order: a link inside leads nowhere until its target is there
		path string
		good bool
	}{{"in", false}, {"dir", true}, {"dir/deep/er", true}, {"in", true}, {"out", false}, {"out/new", false}, {"up", false}, {"up/x", false}} {
		file, err := openBeneath(root, c.path, true)
		if (err == nil) != c.good {
			t.Errorf("%s: %v", c.path, err)
		}
		if err == nil {
			file.Close()
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("made outside the volume: %v", entries)
	}
	if _, err := openBeneath(root, "none", false); !os.IsNotExist(err) {
		t.Errorf("a path that does not exist: %v", err)
	}
}

func TestTearDownUnmounts(t *testing.T) {
	h := &Host{Root: t.TempDir()}
	dir := h.Dir("uid", "secret", "with space")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	if points, err := mountsBelow(h.Root); err != nil || !slices.Equal(points, []string{dir}) {
		t.Errorf("mounts %q, %v", points, err)
	}
	for range 2 {
		if err := h.TearDown("uid"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(h.PodDir("uid")); !os.IsNotExist(err) {
		t.Errorf("left over: %v", err)
	}
}
