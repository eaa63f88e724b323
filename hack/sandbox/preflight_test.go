// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// goodMachine can run three nodes.
func goodMachine() machine {
	return machine{
		euid:         func() int { return 0 },
		kernel:       func() (int, int, string) { return 6, 12, "6.12.1" },
		hasBTF:       func() bool { return true },
		hierarchies:  func() ([]hierarchy, error) { return []hierarchy{{Mountpoint: "/sys/fs/cgroup", Type: "cgroup2"}}, nil },
		lookPath:     func(name string) (string, error) { return "/usr/bin/" + name, nil },
		memAvailable: func() (uint64, error) { return 8 << 30, nil },
		diskFree:     func(string) (uint64, error) { return 100 << 30, nil },
	}
}

func TestPreflightSaysWhatIsMissingAndWhatToDo(t *testing.T) {
	topo, err := Plan(1, 2, Families{IPv4: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	options := UpOptions{Servers: 1, APIPort: port, Binary: "/usr/local/bin/fairlead"}
	for name, c := range map[string]struct {
		change func(*machine, *UpOptions)
		want   string
	}{
		"a user without root":  {func(m *machine, _ *UpOptions) { m.euid = func() int { return 1000 } }, "run it with sudo"},
		"an old kernel":        {func(m *machine, _ *UpOptions) { m.kernel = func() (int, int, string) { return 5, 15, "5.15.0" } }, "kernel 5.15.0: the datapath needs 6.1 or later"},
		"a kernel without BTF": {func(m *machine, _ *UpOptions) { m.hasBTF = func() bool { return false } }, "CONFIG_DEBUG_INFO_BTF"},
		"no cgroup2": {func(m *machine, _ *UpOptions) {
			m.hierarchies = func() ([]hierarchy, error) { return []hierarchy{{Type: "cgroup"}}, nil }
		}, "mount -t cgroup2"},
		"neither runc nor crun": {func(m *machine, _ *UpOptions) {
			m.lookPath = func(string) (string, error) { return "", os.ErrNotExist }
		}, "apt-get install runc"},
		"too little memory":                  {func(m *machine, _ *UpOptions) { m.memAvailable = func() (uint64, error) { return 1 << 30, nil } }, "1024 MiB of memory are available, 3 nodes need 1200 MiB"},
		"too little disk":                    {func(m *machine, _ *UpOptions) { m.diskFree = func(string) (uint64, error) { return 1 << 30, nil } }, "1024 MiB free, 3 nodes need 3072 MiB"},
		"executables that the hosts hide":    {func(_ *machine, o *UpOptions) { o.Binary = "/tmp/fairlead" }, "put the executables elsewhere"},
		"an image archive that is not there": {func(_ *machine, o *UpOptions) { o.Images = []string{"/nonexistent.tar"} }, "make images"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Sandbox{Name: "t", Dir: filepath.Join(t.TempDir(), "t")}
			m, o := goodMachine(), options
			c.change(&m, &o)
			if _, err := s.preflight(m, topo, o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want it to say %q", err, c.want)
			}
			if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s was made", s.Dir)
			}
		})
	}
	s := &Sandbox{Name: "t", Dir: filepath.Join(t.TempDir(), "t")}
	listeners, err := s.preflight(goodMachine(), topo, options)
	if err != nil || len(listeners) != 1 {
		t.Fatalf("a machine that has everything: %v, %d listeners", err, len(listeners))
	}
	listeners[0].Close()
}

func TestPreflightSaysEverythingAtOnce(t *testing.T) {
	topo, err := Plan(1, 0, Families{IPv4: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	m := goodMachine()
	m.hasBTF = func() bool { return false }
	m.memAvailable = func() (uint64, error) { return 1, nil }
	s := &Sandbox{Name: "t", Dir: t.TempDir()}
	_, err = s.preflight(m, topo, UpOptions{Servers: 1, APIPort: freePort(t), Binary: "/usr/local/bin/fairlead"})
	if err == nil || !strings.Contains(err.Error(), "BTF") || !strings.Contains(err.Error(), "memory") {
		t.Errorf("error %v, want both problems", err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
