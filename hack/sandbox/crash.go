// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// crash ends every process of the host but its init, and drops what a reboot loses and the kernel would keep: /run, pinned eBPF objects, the
// namespaces of pods, and every mount of theirs. The data directories stay.
func (in *initProcess) crash() error {
	in.mu.Lock()
	exited := in.exited
	running := in.main != nil
	in.mu.Unlock()
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill every process: %w", err)
	}
	if running {
		select {
		case <-exited:
		case <-time.After(killPatience):
			return fmt.Errorf("%s did not end within %s", in.cfg.Host.Name, killPatience)
		}
	}
	if err := unmountVolatile(); err != nil {
		return err
	}
	if err := removeLinks(); err != nil {
		return err
	}
	for _, m := range volatileMounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

// unmountVolatile takes away every mount below the directories that pods and the runtime mount on, and the volatile file systems themselves.
func unmountVolatile() error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var targets []string
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && isVolatile(fields[1]) {
			targets = append(targets, fields[1])
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(targets))) // what is mounted below another goes first
	for _, t := range targets {
		if err := unix.Unmount(t, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", t, err)
		}
	}
	return nil
}

func isVolatile(target string) bool {
	for _, m := range volatileMounts {
		if target == m.target || strings.HasPrefix(target, m.target+"/") {
			return true
		}
	}
	for _, d := range hostDirs {
		if strings.HasPrefix(target, d[0]+"/") {
			return true
		}
	}
	return false
}

// removeLinks removes every interface of the host that is not its own, and every address and route a node put on those.
func removeLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if name := l.Attrs().Name; name == "lo" || name == "eth0" {
			continue
		}
		var gone netlink.LinkNotFoundError
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, &gone) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("remove %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}
