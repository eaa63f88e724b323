// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hostDirs are the directories that every host has for itself: path inside -> name below the host's directory.
var hostDirs = [][2]string{
	{"/var/lib/fairlead", "data"},
	{"/var/lib/kubelet", "kubelet"},
	{"/var/log", "log"},
	{"/tmp", "tmp"},
	{"/etc/cni/net.d", "cni-conf"}, // for nodes whose network is installed as pods
	{"/opt/cni/bin", "cni-bin"},
}

// mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mount) mount() error {
	if m.fstype != "" && !exists(m.target) {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// volatileMounts are the file systems of a host that are empty after a reboot.
var volatileMounts = []mount{
	{"bpf", "/sys/fs/bpf", "bpf", quiet, "mode=700"},
	{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
}

// mountAll makes the mount namespace a host's. The machine's own mounts are untouched: propagation is cut first, then made shared among the
// host's own processes, as an init system does, so that mount propagation into containers works.
func mountAll(cfg InitConfig, hs []hierarchy) error {
	mounts := []mount{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"none", "/", "", unix.MS_REC | unix.MS_SHARED, ""},
	}
	for _, d := range hostDirs {
		source := filepath.Join(cfg.Dir, d[1])
		for _, dir := range []string{source, d[0]} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		mounts = append(mounts, mount{source, d[0], "", unix.MS_BIND, ""})
	}
	if err := os.Chmod(filepath.Join(cfg.Dir, "tmp"), 0o1777); err != nil {
		return err
	}
	for _, name := range []string{"hosts", "resolv.conf", "hostname"} {
		target := filepath.Join("/etc", name)
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644) // a minimal system lacks some; they are mounted over
		if err != nil {
			return err
		}
		f.Close()
		mounts = append(mounts, mount{filepath.Join(cfg.Dir, "etc", name), target, "", unix.MS_BIND, ""})
	}
	mounts = append(mounts,
		mount{"proc", "/proc", "proc", quiet, ""},
		mount{"sysfs", "/sys", "sysfs", quiet, ""},
	)
	mounts = append(mounts, volatileMounts...)
	if !(len(hs) == 1 && hs[0].Mountpoint == cgroupMounts) {
		mounts = append(mounts, mount{"tmpfs", cgroupMounts, "tmpfs", quiet, "mode=755"})
	}
	for _, h := range hs {
		mounts = append(mounts, mount{h.Type, h.Mountpoint, h.Type, quiet, h.Options})
	}
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeEtc writes the files that a host has below /etc for itself.
func writeEtc(dir string, h Host, t Topology) error {
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for _, other := range t.Hosts {
		for _, a := range other.Addrs() {
			hosts += fmt.Sprintf("%s %s\n", a, other.Name)
		}
	}
	etc := filepath.Join(dir, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"hosts":       hosts,
		"hostname":    h.Name + "\n",
		"resolv.conf": "# The sandbox has no upstream resolver.\n",
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
