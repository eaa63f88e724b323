// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ShareTag names the virtio file system by which a guest sees the machine outside.
const ShareTag = "host"

const (
	newRoot  = "/newroot"
	initFile = "/init" // where the kernel looks for it in an initramfs
)

// copyRoot moves everything from the initramfs, which pivot_root(2) refuses, to a tmpfs that becomes the root.
func copyRoot() error {
	if err := unix.Mount("root", newRoot, "tmpfs", 0, "mode=755,size=90%"); err != nil {
		return err
	}
	err := filepath.WalkDir("/", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == newRoot {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(newRoot+p, info.Mode().Perm())
		}
		if !info.Mode().IsRegular() { // /dev/console
			return nil
		}
		return move(p, newRoot+p, info.Mode().Perm())
	})
	if err != nil {
		return err
	}
	return enterRoot()
}

// shareRoot makes the outer machine's file system the root. What the guest writes stays in its own memory. The file self is the init's own, which is
// in memory already: an executable of this size takes an emulated processor half a minute to read by virtiofs.
func shareRoot(self string) error {
	for _, d := range []string{"/share", "/own"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(ShareTag, "/share", "virtiofs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the outer machine's file system: %w (the kernel needs virtiofs)", err)
	}
	if err := unix.Mount("own", "/own", "tmpfs", 0, "mode=755,size=50%"); err != nil {
		return err
	}
	for _, d := range []string{"/own/upper", "/own/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("root", newRoot, "overlay", 0, "lowerdir=/share,upperdir=/own/upper,workdir=/own/work"); err != nil {
		return fmt.Errorf("overlay the outer machine's file system: %w", err)
	}
	if err := unix.Mount(initFile, newRoot+self, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", initFile, self, err)
	}
	return enterRoot()
}

func enterRoot() error {
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

func move(from, to string, mode fs.FileMode) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := w.ReadFrom(r); err != nil {
		w.Close()
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.Remove(from)
}
