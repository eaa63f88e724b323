// SPDX-License-Identifier: Apache-2.0

// Command init is PID 1 of the virtual machines of hack/vm: it mounts what a Linux host has, loads the modules listed in /modules, runs every
// command of /commands (a line each: NAME PROGRAM ARGUMENT...) and powers off.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/hack/vm"
)

func main() {
	err := run()
	if err != nil {
		fmt.Println("init:", err)
	} else {
		fmt.Println(vm.DoneLine)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("init: power off:", err)
	}
	select {}
}

func run() error {
	if err := switchRoot(); err != nil {
		return fmt.Errorf("switch to a root that can be pivoted: %w", err)
	}
	for _, m := range []struct{ source, target, fstype string }{
		{"proc", "/proc", "proc"},
		{"sysfs", "/sys", "sysfs"},
		{"devtmpfs", "/dev", "devtmpfs"},
		{"devpts", "/dev/pts", "devpts"},
		{"shm", "/dev/shm", "tmpfs"},
		{"mqueue", "/dev/mqueue", "mqueue"},
		{"run", "/run", "tmpfs"},
		{"tmp", "/tmp", "tmpfs"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2"},
		{"bpf", "/sys/fs/bpf", "bpf"},
		{"tracefs", "/sys/kernel/tracing", "tracefs"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) && m.fstype != "tracefs" {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	f, err := os.Open("/commands")
	if err != nil {
		return err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 2 {
			continue
		}
		fmt.Printf("vm-start %s\n", words[0])
		fmt.Printf("\n%s%s %d\n", vm.ExitPrefix, words[0], execute(words[1:]))
	}
	return nil
}

// execute runs a command with its directory as working directory and returns its exit status.
func execute(words []string) int {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = filepath.Dir(words[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Println("init:", err)
	return 127
}

// switchRoot moves everything from the initramfs, which pivot_root(2) refuses, to a tmpfs that becomes the root.
func switchRoot() error {
	const to = "/newroot"
	if err := unix.Mount("root", to, "tmpfs", 0, "mode=755,size=90%"); err != nil {
		return err
	}
	err := filepath.WalkDir("/", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == to {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(to+p, info.Mode().Perm())
		}
		if !info.Mode().IsRegular() { // /dev/console
			return nil
		}
		return move(p, to+p, info.Mode().Perm())
	})
	if err != nil {
		return err
	}
	if err := os.Chdir(to); err != nil {
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

// loadModules loads the modules that a file lists, in its order.
func loadModules(list string) error {
	b, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		name := strings.TrimSpace(line)
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		flags := 0
		if !strings.HasSuffix(name, ".ko") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		err = unix.FinitModule(int(f.Fd()), "", flags)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}
