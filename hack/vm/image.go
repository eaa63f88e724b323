// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/fairlead/fairlead/hack/vm/guest"
)

// Image is the content of a virtual machine's initramfs.
type Image struct {
	files map[string]file
	order []string
}

type file struct {
	mode    fs.FileMode
	content []byte // of a file: its bytes; of a symbolic link: its target
	from    string // read when it is written; empty means content
}

// NewImage returns an image that has only directories.
func NewImage() *Image {
	im := &Image{files: map[string]file{}}
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/etc", "/newroot", "/var/lib", "/var/log"} {
		im.dir(d)
	}
	return im
}

func (im *Image) dir(name string) {
	if name == "/" || name == "." {
		return
	}
	if _, there := im.files[name]; there {
		return
	}
	im.dir(path.Dir(name))
	im.put(name, file{mode: fs.ModeDir | 0o755})
}

func (im *Image) put(name string, f file) {
	if !f.mode.IsDir() {
		im.dir(path.Dir(name))
	}
	if _, there := im.files[name]; !there {
		im.order = append(im.order, name)
	}
	im.files[name] = f
}

// Write adds a file with the given content.
func (im *Image) Write(name, content string) {
	im.put(name, file{mode: 0o644, content: []byte(content)})
}

// Copy adds the machine's file or directory from as name.
func (im *Image) Copy(name, from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		at := path.Join(name, filepath.ToSlash(rel))
		info, err := os.Stat(p)
		switch {
		case err != nil:
			return err
		case d.IsDir():
			im.dir(at)
		case info.Mode().IsRegular():
			im.put(at, file{mode: info.Mode().Perm(), from: p})
		default:
			return fmt.Errorf("%s is neither a file nor a directory", p)
		}
		return nil
	})
}

// Program adds the machine's executable from as name, with the shared libraries that ldd(1) says it needs.
func (im *Image) Program(ctx context.Context, name, from string) error {
	if err := im.Copy(name, from); err != nil {
		return err
	}
	libs, err := run(ctx, "/", "ldd", from)
	if err != nil {
		return err
	}
	for line := range strings.Lines(libs) { // "libc.so.6 => /lib/... (0x...)" or "/lib64/ld-linux-x86-64.so.2 (0x...)"
		for _, word := range strings.Fields(line) {
			if !strings.HasPrefix(word, "/") {
				continue
			}
			if err := im.Copy(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}

// Modules adds the named kernel modules and what they need, in the order in which the init has to load them (guest.ModuleList). A module that is
// built into the kernel, or that it does not have, is left out.
func (im *Image) Modules(k Installed, names ...string) error {
	dep, err := os.Open(filepath.Join(k.Modules, "modules.dep"))
	if err != nil {
		dep, err = depmod(k)
	}
	if err != nil {
		return err
	}
	defer dep.Close()
	needs := map[string][]string{} // module file -> the files it needs, direct ones last
	byName := map[string]string{}
	for s := bufio.NewScanner(dep); s.Scan(); {
		mod, rest, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue
		}
		needs[mod] = strings.Fields(rest)
		name, _, _ := strings.Cut(filepath.Base(mod), ".")
		byName[strings.ReplaceAll(name, "-", "_")] = mod
	}
	var list []string
	seen := map[string]bool{}
	add := func(mod string) error {
		if seen[mod] {
			return nil
		}
		seen[mod] = true
		list = append(list, "/lib/modules/"+filepath.Base(mod))
		return im.Copy("/lib/modules/"+filepath.Base(mod), filepath.Join(k.Modules, mod))
	}
	for _, n := range names {
		mod, ok := byName[n]
		if !ok {
			continue
		}
		for i := len(needs[mod]) - 1; i >= 0; i-- { // modules.dep lists the deepest last
			if err := add(needs[mod][i]); err != nil {
				return err
			}
		}
		if err := add(mod); err != nil {
			return err
		}
	}
	im.Write(guest.ModuleList, strings.Join(list, "\n")+"\n")
	return nil
}

// depmod makes modules.dep, which a kernel's package leaves to its installation.
func depmod(k Installed) (*os.File, error) {
	base := filepath.Dir(filepath.Dir(filepath.Dir(k.Modules)))
	if _, err := run(context.Background(), "/", "/sbin/depmod", "-b", base, k.Release); err != nil {
		return nil, fmt.Errorf("%w (depmod is part of the package kmod)", err)
	}
	return os.Open(filepath.Join(k.Modules, "modules.dep"))
}

// WriteTo writes the image as a cpio archive of format newc (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
func (im *Image) WriteTo(w io.Writer) (int64, error) {
	c := &cpio{w: bufio.NewWriterSize(w, 1<<20)}
	for _, name := range im.order {
		f := im.files[name]
		if f.from != "" {
			b, err := os.ReadFile(f.from)
			if err != nil {
				return c.n, err
			}
			f.content = b
		}
		c.entry(strings.TrimPrefix(name, "/"), unixMode(f.mode), f.content)
	}
	c.entry("TRAILER!!!", 0, nil)
	if c.err == nil {
		c.err = c.w.Flush()
	}
	return c.n, c.err
}

func unixMode(m fs.FileMode) uint32 {
	const directory, regular = 0o040000, 0o100000
	if m.IsDir() {
		return directory | uint32(m.Perm())
	}
	return regular | uint32(m.Perm())
}

type cpio struct {
	w   *bufio.Writer
	n   int64
	ino int
	err error
}

func (c *cpio) entry(name string, mode uint32, content []byte) {
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, size, dev (2), rdev (2), name length with its NUL, check
	fmt.Fprintf(c, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", c.ino, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	fmt.Fprintf(c, "%s\x00", name)
	c.pad()
	_, _ = c.Write(content) // the error is kept
	c.pad()
}

// pad fills up to a multiple of four bytes.
func (c *cpio) pad() { _, _ = c.Write(bytes.Repeat([]byte{0}, int(-c.n&3))) }

// Write keeps the first error.
func (c *cpio) Write(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.err = err
	return n, err
}
