// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup tree: cgroup2, or a version 1 controller set.
type hierarchy struct {
	Mountpoint string
	Type       string // cgroup or cgroup2
	Options    string // the version 1 controllers, as mount takes them: "cpu,cpuacct", "name=systemd"
}

const cgroupMounts = "/sys/fs/cgroup"

// hierarchies lists what is mounted below /sys/fs/cgroup. Version 2 only, version 1 and hybrid hosts all work.
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []hierarchy
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[1], cgroupMounts) {
			continue
		}
		switch fields[2] {
		case "cgroup2":
			out = append(out, hierarchy{Mountpoint: fields[1], Type: "cgroup2"})
		case "cgroup":
			out = append(out, hierarchy{Mountpoint: fields[1], Type: "cgroup", Options: controllers(fields[3])})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted below " + cgroupMounts)
	}
	return out, nil
}

// controllers keeps of a version 1 mount's options those that name the hierarchy.
func controllers(options string) string {
	var keep []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime", "xattr", "clone_children", "noprefix":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				keep = append(keep, o)
			}
		}
	}
	return strings.Join(keep, ",")
}

// unified returns the cgroup2 mount point, which the datapath needs.
func unified(hs []hierarchy) (string, error) {
	for _, h := range hs {
		if h.Type == "cgroup2" {
			return h.Mountpoint, nil
		}
	}
	return "", errors.New("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

// makeCgroup creates path in every hierarchy, with every controller that the hierarchy has.
func makeCgroup(path string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		if err := os.MkdirAll(filepath.Join(h.Mountpoint, path), 0o755); err != nil {
			return err
		}
		if h.Type == "cgroup2" {
			err = delegate(h.Mountpoint, path)
		} else {
			err = inheritCpuset(h.Mountpoint, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// delegate turns every controller on for path and for what is above it: version 2 gives a cgroup only those that its parent passes on.
func delegate(mountpoint, path string) error {
	dir := mountpoint
	for part := range strings.SplitSeq(path, "/") {
		available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, c := range strings.Fields(string(available)) {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
				return fmt.Errorf("pass the %s controller on: %w", c, err)
			}
		}
		dir = filepath.Join(dir, part)
	}
	return nil
}

// inheritCpuset copies cpus and mems downwards where the hierarchy has them: a version 1 cpuset accepts no process while they are empty.
func inheritCpuset(mountpoint, path string) error {
	dir := mountpoint
	for part := range strings.SplitSeq(path, "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(dir, file))
			if errors.Is(err, fs.ErrNotExist) || len(strings.TrimSpace(string(have))) > 0 {
				continue
			}
			from, err := os.ReadFile(filepath.Join(parent, file))
			if errors.Is(err, fs.ErrNotExist) || len(strings.TrimSpace(string(from))) == 0 {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), from, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// enterCgroup moves the calling process into path in every hierarchy of hs.
func enterCgroup(hs []hierarchy, path string) error {
	for _, h := range hs {
		if err := os.WriteFile(filepath.Join(h.Mountpoint, path, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}

// removeCgroup kills every process below path and removes it from every hierarchy. An absent cgroup is no error.
func removeCgroup(path string, patience time.Duration) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	root, err := unified(hs)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	if err := killCgroup(filepath.Join(root, path), deadline); err != nil {
		return err
	}
	for _, h := range hs {
		if err := removeTree(filepath.Join(h.Mountpoint, path), deadline); err != nil {
			return err
		}
	}
	return nil
}

// killCgroup ends the processes in dir and below (cgroup.kill, Linux 5.14) and waits until they are gone.
func killCgroup(dir string, deadline time.Time) error {
	for {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if errors.Is(err, fs.ErrNotExist) || strings.Contains(string(events), "populated 0") {
			return nil
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644); err != nil {
			return fmt.Errorf("kill the sandbox's processes: %w", err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes in %s do not end; `cat %s/cgroup.procs` lists them", dir, dir)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// removeTree removes a cgroup directory and those below it, deepest first, retrying while the kernel still lets go of them.
func removeTree(dir string, deadline time.Time) error {
	for {
		var dirs []string
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		if err != nil {
			return err
		}
		var busy error
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := syscall.Rmdir(dirs[i]); err != nil && err != syscall.ENOENT {
				busy = &os.PathError{Op: "rmdir", Path: dirs[i], Err: err}
			}
		}
		if busy == nil || time.Now().After(deadline) {
			return busy
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// openCgroup opens path of the cgroup2 hierarchy for placeInCgroup.
func openCgroup(path string) (*os.File, error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	root, err := unified(hs)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(root, path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// placeInCgroup has cmd start as a member of dir, so that no child of it is ever outside.
func placeInCgroup(cmd *exec.Cmd, dir *os.File) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(dir.Fd())
}
