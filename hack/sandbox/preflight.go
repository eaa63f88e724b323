// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits below which a sandbox is refused.
const (
	memoryPerNode = 400 << 20 // bytes available
	diskPerNode   = 1 << 30   // bytes free
	minKernel     = "6.1"     // the oldest that was tried
)

// machine is what preflight asks of the machine.
type machine struct {
	euid         func() int
	kernel       func() (major, minor int, release string)
	hasBTF       func() bool
	hierarchies  func() ([]hierarchy, error)
	lookPath     func(name string) (string, error)
	memAvailable func() (uint64, error)           // bytes
	diskFree     func(dir string) (uint64, error) // bytes
}

var thisMachine = machine{
	euid:         os.Geteuid,
	kernel:       kernelVersion,
	hasBTF:       func() bool { return exists("/sys/kernel/btf/vmlinux") },
	hierarchies:  hierarchies,
	lookPath:     exec.LookPath,
	memAvailable: memAvailable,
	diskFree: func(dir string) (uint64, error) {
		var fs unix.Statfs_t
		err := unix.Statfs(existingParent(dir), &fs)
		return fs.Bavail * uint64(fs.Bsize), err
	},
}

// preflight looks whether m can run the sandbox, before anything is changed. All that is missing is said at once. It returns a listening socket of
// 127.0.0.1 per server, which the server's process inherits.
func (s *Sandbox) preflight(m machine, t Topology, o UpOptions) ([]*os.File, error) {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if m.euid() != 0 {
		return nil, errors.New("root is needed to make network namespaces and load eBPF programs: run it with sudo")
	}
	if major, minor, release := m.kernel(); major < 6 || major == 6 && minor < 1 {
		problem("kernel %s: the datapath needs %s or later", release, minKernel)
	}
	if !m.hasBTF() {
		problem("the kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF")
	}
	hs, err := m.hierarchies()
	if err == nil {
		_, err = unified(hs)
	}
	if err != nil {
		problems = append(problems, err)
	}
	if _, err := m.lookPath("runc"); err != nil {
		if _, err := m.lookPath("crun"); err != nil {
			problem("runc is not installed: apt-get install runc")
		}
	}
	nodes := uint64(len(t.Nodes()))
	if have, err := m.memAvailable(); err == nil && have < nodes*memoryPerNode {
		problem("%d MiB of memory are available, %d nodes need %d MiB", have>>20, nodes, nodes*memoryPerNode>>20)
	}
	if have, err := m.diskFree(s.Dir); err == nil && have < nodes*diskPerNode {
		problem("%s has %d MiB free, %d nodes need %d MiB", s.Dir, have>>20, nodes, nodes*diskPerNode>>20)
	}
	for _, d := range hostDirs {
		if strings.HasPrefix(o.Binary, d[0]+"/") {
			problem("%s is below %s, which every host of the sandbox has for itself and so hides; put the executables elsewhere", o.Binary, d[0])
		}
	}
	for _, img := range o.Images {
		if _, err := os.Stat(img); err != nil {
			problem("image archive: %w; `make images` builds the sample's", err)
		}
	}
	listeners, err := listen(o.APIPort, apiPorts(o.Servers))
	if err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		for _, l := range listeners {
			l.Close()
		}
		return nil, fmt.Errorf("this machine cannot run the sandbox as it is (nothing was changed):\n%w", errors.Join(problems...))
	}
	return listeners, nil
}

// apiPorts is how many ports of 127.0.0.1 the API of so many servers takes: the first is for all servers together, so that whoever lives answers there, and with
// several servers each has one more of its own.
func apiPorts(servers int) int {
	if servers == 1 {
		return 1
	}
	return 1 + servers
}

// listen opens count consecutive ports of 127.0.0.1.
func listen(port, count int) ([]*os.File, error) {
	var files []*os.File
	for i := range count {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port+i))
		l, err := net.Listen("tcp4", addr)
		if errors.Is(err, unix.EADDRINUSE) {
			return files, fmt.Errorf("%s is in use by another program; choose a free port with --api-port", addr)
		}
		if err != nil {
			return files, err
		}
		f, err := l.(*net.TCPListener).File()
		l.Close()
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func kernelVersion() (major, minor int, release string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return 0, 0, "unknown"
	}
	release = unix.ByteSliceToString(u.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return 0, 0, release
	}
	return major, minor, release
}

// memAvailable returns MemAvailable of /proc/meminfo in bytes.
func memAvailable() (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

func existingParent(dir string) string {
	for !exists(dir) {
		i := strings.LastIndexByte(dir, '/')
		if i <= 0 {
			return "/"
		}
		dir = dir[:i]
	}
	return dir
}
