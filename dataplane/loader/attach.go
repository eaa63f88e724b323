// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// AttachCgroup attaches prog to the cgroup2 directory cgroup under the link name. See attach for replacement.
func (l *Loader) AttachCgroup(prog *ebpf.Program, at ebpf.AttachType, cgroup, name string) error {
	st, err := os.Stat(cgroup)
	if err != nil {
		return fmt.Errorf("attach %s: cgroup: %w", name, err)
	}
	id, err := cgroupID(cgroup)
	if err != nil || !st.IsDir() {
		return fmt.Errorf("attach %s: %s is no cgroup2 directory: %w", name, cgroup, err)
	}
	same := func(i *link.Info) bool { c := i.Cgroup(); return c != nil && c.CgroupId == id }
	return l.attach(name, prog, same, func() (link.Link, error) {
		lk, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: at, Program: prog})
		if errors.Is(err, link.ErrNotSupported) {
			return nil, &KernelError{Feature: "BPF links on cgroups", MinKernel: "5.7", Err: err}
		}
		return lk, err
	})
}

// AttachTCX attaches prog to a device of the current network namespace; at is ebpf.AttachTCXIngress or ebpf.AttachTCXEgress.
// Where there is no tcx (before Linux 6.6) it becomes a filter of the device's clsact qdisc.
func (l *Loader) AttachTCX(prog *ebpf.Program, ifindex int, at ebpf.AttachType, name string) error {
	if l.cfg.NoTCX {
		return l.attachFilter(prog, ifindex, at, name, filterLater)
	}
	return l.attachTCX(prog, ifindex, at, name, nil)
}

// AttachTCXFirst is AttachTCX, but a new link runs before the programs that are already there.
func (l *Loader) AttachTCXFirst(prog *ebpf.Program, ifindex int, at ebpf.AttachType, name string) error {
	if l.cfg.NoTCX {
		return l.attachFilter(prog, ifindex, at, name, filterFirst)
	}
	return l.attachTCX(prog, ifindex, at, name, link.Head())
}

func (l *Loader) attachTCX(prog *ebpf.Program, ifindex int, at ebpf.AttachType, name string, anchor link.Anchor) error {
	same := func(i *link.Info) bool { t := i.TCX(); return t != nil && int(t.Ifindex) == ifindex }
	return l.attach(name, prog, same, func() (link.Link, error) {
		lk, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: at, Anchor: anchor})
		if errors.Is(err, link.ErrNotSupported) {
			return nil, &KernelError{Feature: "tcx", MinKernel: "6.6", Err: err}
		}
		return lk, err
	})
}

// AttachNetkit attaches prog to the netkit pair whose primary end, in the current network namespace, is ifindex; at is ebpf.AttachNetkitPrimary (what the primary
// end sends) or ebpf.AttachNetkitPeer (what the other one does). The name must be the pair's own: for the peer the kernel tells an index of another namespace.
func (l *Loader) AttachNetkit(prog *ebpf.Program, ifindex int, at ebpf.AttachType, name string) error {
	same := func(i *link.Info) bool { n := i.Netkit(); return n != nil && ebpf.AttachType(n.AttachType) == at }
	return l.attach(name, prog, same, func() (link.Link, error) {
		lk, err := link.AttachNetkit(link.NetkitOptions{Interface: ifindex, Program: prog, Attach: at})
		if errors.Is(err, link.ErrNotSupported) {
			return nil, &KernelError{Feature: "netkit", MinKernel: "6.7", Err: err}
		}
		return lk, err
	})
}

// XDPMode is how an XDP program runs on a device.
type XDPMode string

// The modes of AttachXDP, best first.
const (
	XDPNative  XDPMode = "native"
	XDPGeneric XDPMode = "generic"
)

// AttachXDP attaches prog to a device of the current network namespace, in the driver when it can, else generically, and says which.
func (l *Loader) AttachXDP(prog *ebpf.Program, ifindex int, name string) (XDPMode, error) {
	same := func(i *link.Info) bool { x := i.XDP(); return x != nil && int(x.Ifindex) == ifindex }
	mode := XDPNative
	err := l.attach(name, prog, same, func() (link.Link, error) {
		lk, nativeErr := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex, Flags: link.XDPDriverMode})
		if nativeErr == nil {
			return lk, nil
		}
		mode = XDPGeneric
		lk, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ifindex, Flags: link.XDPGenericMode})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("native: %w", nativeErr), fmt.Errorf("generic: %w", err))
		}
		return lk, nil
	})
	if err != nil {
		return "", err
	}
	return mode, nil
}

// Detach removes the link or filter called name. Detaching an absent link returns nil.
func (l *Loader) Detach(name string) error {
	if err := l.removeFilters(name); err != nil {
		return err
	}
	lk, err := link.LoadPinnedLink(l.linkPath(name), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		// Detach takes effect at once, even if something else holds the link open; it fails where the target is gone, which is as good.
		_ = lk.Detach()
		_ = lk.Close()
	}
	if err := os.Remove(l.linkPath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin link %s: %w", name, err)
	}
	return nil
}

// LinkNames lists what is attached, by pinned links and by filters, sorted.
func (l *Loader) LinkNames() ([]string, error) {
	entries, err := os.ReadDir(l.links)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, LinkName(e.Name()))
	}
	filters, err := l.pinnedFilters()
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		names = append(names, f.Name)
	}
	sort.Strings(names)
	return names, nil
}

// attach gives the link name the program prog: by an atomic update where a pinned link to the same target exists, else by a new link made
// by create, which is then pinned. A link to another target is removed first.
func (l *Loader) attach(name string, prog *ebpf.Program, same func(*link.Info) bool, create func() (link.Link, error)) error {
	path := l.linkPath(name)
	old, err := link.LoadPinnedLink(path, nil)
	switch {
	case err == nil:
		defer old.Close()
		info, err := old.Info()
		if err == nil && same(info) {
			err = old.Update(prog)
			if err == nil {
				return nil
			}
		}
		// The target is gone (ENOLINK), is another one, or the program cannot follow the old one: start anew.
		_ = old.Detach()
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("replace link %s: %w", name, err)
		}
	case errors.Is(err, os.ErrNotExist):
	default:
		return fmt.Errorf("open pinned link %s: %w", name, err)
	}
	lk, err := create()
	if err != nil {
		return fmt.Errorf("attach %s: %w", name, describe(err))
	}
	defer lk.Close()
	if err := lk.Pin(path); err != nil {
		return fmt.Errorf("pin link %s: %w", name, err)
	}
	return nil
}

func (l *Loader) linkPath(name string) string { return filepath.Join(l.links, escape(name)) }

// A bpffs takes no name with a dot, and devices have such (eth0.100).
func escape(name string) string   { return strings.ReplaceAll(name, ".", "%2e") }
func unescape(name string) string { return strings.ReplaceAll(name, "%2e", ".") }

// LinkName returns the name under which the link pinned as file was attached.
func LinkName(file string) string { return unescape(file) }

// cgroupID returns the kernel's id of a cgroup2 directory, which is its file handle.
func cgroupID(path string) (uint64, error) {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return 0, fmt.Errorf("file handle of %s: %w", path, err)
	}
	b := h.Bytes()
	if len(b) != 8 {
		return 0, fmt.Errorf("file handle of %s has %d bytes, a cgroup2 directory's has 8", path, len(b))
	}
	return nativeUint64(b), nil
}
