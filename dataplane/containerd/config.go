// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"
)

// SandboxImage is the name under which the embedded pause image is imported.
const SandboxImage = "fairlead.io/pause:1"

// maxSocketDir is containerd's limit for the directory of shim sockets: their names are 64 characters, a socket path at most 107.
const maxSocketDir = 42

// Config places one node's container runtime. Every path is absolute; nothing outside them is written, except the sockets of shims when
// RunDir is too long for a socket path (see socketDir).
type Config struct {
	// DataDir holds what survives a reboot: <DataDir>/root (content, snapshots, metadata), bin, images, log, config.toml.
	DataDir string
	// RunDir holds what does not: containerd.sock, pid file, task state, network namespaces.
	RunDir string
	// Executable is started as daemon and shim; it must call Dispatch. Empty: this process's own executable.
	Executable string
	// ShimExecutable is a smaller executable for the shim alone (cmd/fairlead-shim). Empty: fairlead-shim beside Executable if it is there,
	// else Executable.
	ShimExecutable string
	// CgroupDir is a cgroup2 directory the daemon is started in; shims and, on hosts where cgroup2 has no controllers, containers inherit it.
	// It is created when it does not exist. Empty: this process's own.
	CgroupDir string
	// RuncBinary is the OCI runtime: runc, or crun. Empty: runc beside Executable if it is there, else runc, else crun of PATH.
	RuncBinary string
	// CNIConfDir and CNIBinDirs are where the daemon finds network configuration and plugins.
	// Empty: <DataDir>/cni/net.d; <DataDir>/cni/bin, /usr/lib/cni and /opt/cni/bin.
	CNIConfDir string
	CNIBinDirs []string
	// RegistryConfigDir holds hosts.toml files per registry (mirrors, plain HTTP, CA). Empty: <DataDir>/registries.
	RegistryConfigDir string
	// ImagesDir is watched for image archives to import. Empty: <DataDir>/images.
	ImagesDir string
	// Snapshotter is overlayfs when empty.
	Snapshotter string
	// LogLevel is info when empty.
	LogLevel string
	// OnBroken is told of each archive in ImagesDir that was not imported. May be nil.
	OnBroken func(file string, err error) `json:"-"`
	// StopWithAgent stops the daemon when Run's context ends. Containers live on either way.
	StopWithAgent bool
}

func (c Config) withDefaults() (Config, error) {
	if !filepath.IsAbs(c.DataDir) || !filepath.IsAbs(c.RunDir) {
		return c, fmt.Errorf("container runtime: data directory %q and run directory %q must be absolute", c.DataDir, c.RunDir)
	}
	if c.Executable == "" {
		self, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("container runtime: find own executable: %w", err)
		}
		c.Executable = self
	}
	if c.ShimExecutable == "" {
		c.ShimExecutable = c.Executable
		if beside := filepath.Join(filepath.Dir(c.Executable), "fairlead-shim"); isExecutable(beside) {
			c.ShimExecutable = beside
		}
	}
	if c.RuncBinary == "" {
		c.RuncBinary = findRunc(filepath.Dir(c.Executable))
	}
	if c.CNIConfDir == "" {
		c.CNIConfDir = filepath.Join(c.DataDir, "cni", "net.d")
	}
	if len(c.CNIBinDirs) == 0 {
		c.CNIBinDirs = []string{filepath.Join(c.DataDir, "cni", "bin"), "/usr/lib/cni", "/opt/cni/bin"}
	}
	if c.RegistryConfigDir == "" {
		c.RegistryConfigDir = filepath.Join(c.DataDir, "registries")
	}
	if c.Snapshotter == "" {
		c.Snapshotter = "overlayfs"
	}
	if c.LogLevel == "" {
		c.LogLevel = "info"
	}
	return c, nil
}

// findRunc looks for an OCI runtime in dir, then in PATH. What is not found is left to be looked for, and complained about, when the first pod starts.
func findRunc(dir string) string {
	if beside := filepath.Join(dir, "runc"); isExecutable(beside) {
		return beside
	}
	for _, name := range []string{"runc", "crun"} {
		if found, err := exec.LookPath(name); err == nil {
			return found
		}
	}
	return "runc"
}

// Socket is the daemon's gRPC socket: CRI and containerd's own services.
func (c Config) Socket() string { return filepath.Join(c.RunDir, "containerd.sock") }

// Endpoint is Socket as a CRI endpoint.
func (c Config) Endpoint() string { return "unix://" + c.Socket() }

// ImageDir is where image archives are imported from, at start and when they appear.
func (c Config) ImageDir() string {
	if c.ImagesDir != "" {
		return c.ImagesDir
	}
	return filepath.Join(c.DataDir, "images")
}

func (c Config) configFile() string { return filepath.Join(c.DataDir, "config.toml") }
func (c Config) pidFile() string    { return filepath.Join(c.RunDir, "containerd.pid") }
func (c Config) logFile() string    { return filepath.Join(c.DataDir, "log", "containerd.log") }
func (c Config) shimLink() string   { return filepath.Join(c.DataDir, "bin", ShimName) }

// socketDir is where shims listen: below RunDir, or a short name of its own when that would not fit a socket address.
func (c Config) socketDir() string {
	if dir := filepath.Join(c.RunDir, "s"); len(dir) <= maxSocketDir {
		return dir
	}
	return "/run/fairlead-s/" + shortHash(c.RunDir)
}

var configTemplate = template.Must(template.New("config.toml").Funcs(template.FuncMap{"q": strconv.Quote}).Parse(`# Written by fairlead at every start; changes are lost.
version = 4
root = {{q .Root}}
state = {{q .State}}
oom_score = 0

[debug]
  level = {{q .LogLevel}}

[plugins."io.containerd.server.v1.grpc"]
  address = {{q .Socket}}
[plugins."io.containerd.server.v1.ttrpc"]
  address = {{q .TTRPC}}

[plugins."io.containerd.shim.v1.manager"]
  env = [{{q .ShimEnv}}]
  socket_dir = {{q .SocketDir}}

[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = "shared"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = {{q .Snapshotter}}
  disable_snapshot_annotations = true
  max_concurrent_downloads = 3
  image_pull_progress_timeout = "5m0s"
  stats_collect_period = 10
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = {{q .SandboxImage}}
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = {{q .Registries}}

[plugins."io.containerd.transfer.v1.local"]
  config_path = {{q .Registries}}

[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = {{not .AppArmor}}
  restrict_oom_score_adj = {{.RestrictOOM}}
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = {{not .Hugetlb}}
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  device_ownership_from_security_context = true
  ignore_image_defined_volumes = false
  netns_mounts_under_state_dir = true
  unset_seccomp_profile = ""
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
  enable_criu = false
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = {{q .Shim}}
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = {{q .Runc}}
        Root = {{q .RuncRoot}}
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = {{q .CNIConf}}
    bin_dirs = [{{range $i, $d := .CNIBin}}{{if $i}}, {{end}}{{q $d}}{{end}}]
    max_conf_num = 1
    use_internal_loopback = true

[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
`))

// Host is what the machine allows, found by probing it.
type Host struct {
	// RestrictOOM: oom_score_adj cannot be lowered (no CAP_SYS_RESOURCE).
	RestrictOOM bool
	// AppArmor and Hugetlb: the kernel has them enabled and the tools or controllers are there.
	AppArmor, Hugetlb bool
}

// ProbeHost looks at this process's capabilities and the kernel's features.
func ProbeHost() Host {
	_, parser := os.Stat("/sbin/apparmor_parser")
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	_, hugetlb1 := os.Stat("/sys/fs/cgroup/hugetlb")
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return Host{
		RestrictOOM: !hasCapability(unix.CAP_SYS_RESOURCE),
		AppArmor:    parser == nil && bytes.HasPrefix(enabled, []byte("Y")),
		Hugetlb:     hugetlb1 == nil || strings.Contains(string(controllers), "hugetlb"),
	}
}

func hasCapability(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// render returns the daemon's configuration for c (with defaults filled in) on host.
func (c Config) render(host Host) ([]byte, error) {
	for _, path := range append([]string{c.DataDir, c.RunDir, c.RuncBinary, c.CNIConfDir, c.RegistryConfigDir}, c.CNIBinDirs...) {
		if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' }) {
			return nil, fmt.Errorf("container runtime: path %q has a control character", path)
		}
	}
	var out bytes.Buffer
	err := configTemplate.Execute(&out, map[string]any{
		"Root": filepath.Join(c.DataDir, "root"), "State": filepath.Join(c.RunDir, "state"), "LogLevel": c.LogLevel,
		"Socket": c.Socket(), "TTRPC": c.Socket() + ".ttrpc", "ShimEnv": entryEnv + "=" + ShimName, "SocketDir": c.socketDir(),
		"Snapshotter": c.Snapshotter, "SandboxImage": SandboxImage, "Registries": c.RegistryConfigDir,
		"AppArmor": host.AppArmor, "RestrictOOM": host.RestrictOOM, "Hugetlb": host.Hugetlb,
		"Shim": c.shimLink(), "Runc": c.RuncBinary, "RuncRoot": filepath.Join(c.RunDir, "runc"),
		"CNIConf": c.CNIConfDir, "CNIBin": c.CNIBinDirs,
	})
	return out.Bytes(), err
}

// prepare makes the directories, the shim's link and the configuration file.
func (c Config) prepare(host Host) error {
	for dir, mode := range map[string]os.FileMode{
		c.DataDir: 0o755, filepath.Join(c.DataDir, "bin"): 0o755, filepath.Join(c.DataDir, "log"): 0o750, c.ImageDir(): 0o755,
		c.RunDir: 0o711, c.CNIConfDir: 0o755, c.RegistryConfigDir: 0o755, c.socketDir(): 0o711,
	} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("container runtime: %w", err)
		}
	}
	if err := replaceLink(c.ShimExecutable, c.shimLink()); err != nil {
		return fmt.Errorf("container runtime: link shim: %w", err)
	}
	config, err := c.render(host)
	if err != nil {
		return err
	}
	return writeFile(c.configFile(), config, 0o600)
}

// replaceLink makes link a symbolic link to target, atomically.
func replaceLink(target, link string) error {
	temporary := link + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	return os.Rename(temporary, link)
}

// writeFile replaces name atomically.
func writeFile(name string, data []byte, mode os.FileMode) error {
	temporary := name + ".new"
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

func isExecutable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
