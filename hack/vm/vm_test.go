// SPDX-License-Identifier: Apache-2.0

//go:build vm

package vm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/vm/guest"
)

// suites are test executables that run in every kernel: the programs against its verifier, and packets through the loaded programs.
var suites = []string{"dataplane/loader", "dataplane/loadbalancer", "dataplane/conntrack"}

// The pod network's tests with real pods: with netkit pairs where Debian's kernel has netkit, else with veth.
const podnetTests = "^(TestEveryVersionAndVerb|TestProgramsMoveToLinks|TestCheckSeesDamage|TestConnectivity|TestFastPath|TestSpoofedSourceIsDropped|TestAgentKilledAnywhere|TestSCTP)$"

// podDevice is what pods get on a kernel series.
var podDevice = map[string]string{"6.1": "veth", "6.12": "netkit"}

func TestKernels(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(root, "out", "vm")
	programs := filepath.Join(work, "programs")
	build(t, root, filepath.Join(programs, "init"), "build", "./hack/vm/init")
	for _, s := range suites {
		build(t, root, filepath.Join(programs, filepath.Base(s)+".test"), "test", "-c", "./"+s)
	}
	build(t, root, filepath.Join(programs, "podnet.test"), "test", "-c", "./dataplane/podnet")
	build(t, root, filepath.Join(programs, "cluster.test"), "test", "-c", "-tags", "vm", "./hack/vm/cluster")
	for _, k := range Kernels {
		t.Run(k.Series, func(t *testing.T) {
			installed, err := k.Fetch(t.Context(), filepath.Join(work, "kernels"))
			if err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(root, "out", "test", "vm-"+k.Series+".log")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
			defer cancel()
			m := Machine{Kernel: installed, Image: image(t, root, programs, k.Series, installed), Memory: 4096, CPUs: 2, Log: log}
			status, err := m.Boot(ctx)
			t.Logf("Linux %s: %v", installed.Release, status)
			if err != nil {
				t.Errorf("%v\n%s", err, tail(log))
			}
			for _, name := range append([]string{"podnet", "cluster"}, suites...) {
				code, ran := status[filepath.Base(name)]
				switch {
				case !ran:
					t.Errorf("%s did not run: see %s", name, log)
				case code != 0:
					t.Errorf("%s failed with status %d: see %s\n%s", name, code, log, failures(log))
				}
			}
		})
	}
}

// image holds the test executables, and what one node of a cluster needs.
func image(t *testing.T, root, programs, series string, k Installed) *Image {
	t.Helper()
	im := NewImage()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	check(im.Copy("/init", filepath.Join(programs, "init")))
	check(im.Modules(k, Modules...))
	var commands strings.Builder
	for _, s := range suites {
		name := filepath.Base(s)
		at := "/tests/" + name + "/"
		check(im.Copy(at+name, filepath.Join(programs, name+".test")))
		if data := filepath.Join(root, s, "testdata"); exists(data) {
			check(im.Copy(at+"testdata", data))
		}
		commands.WriteString(name + " " + at + name + " -test.short -test.timeout=6m\n")
	}
	for _, name := range []string{"fairlead", "fairlead-shim", "fairlead-cni", "flctl"} {
		check(im.Copy("/opt/fairlead/"+name, filepath.Join(root, "bin", name)))
	}
	check(im.Copy("/opt/fairlead/sample.tar", filepath.Join(root, "out", "images", "sample.tar")))
	check(im.Copy("/tests/podnet/podnet", filepath.Join(programs, "podnet.test")))
	commands.WriteString("podnet /tests/podnet/podnet -test.v -test.timeout=12m -plugin-dir=/opt/fairlead -patience=3m -device=" + podDevice[series] + " -test.run=" + podnetTests + "\n")
	check(im.Copy("/tests/cluster/cluster", filepath.Join(programs, "cluster.test")))
	commands.WriteString("cluster /tests/cluster/cluster -test.v -test.timeout=12m\n")
	for _, p := range []string{"runc"} {
		from, err := exec.LookPath(p)
		check(err)
		check(im.Program(t.Context(), "/usr/bin/"+p, from))
	}
	im.Write(guest.CommandList, commands.String())
	im.Write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	im.Write("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
	im.Write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
	im.Write("/etc/resolv.conf", "# no network\n")
	im.Write("/etc/os-release", "PRETTY_NAME=\"Debian kernel in a virtual machine\"\nID=debian\n")
	return im
}

func build(t *testing.T, root, out string, verb ...string) {
	t.Helper()
	args := append([]string{}, verb[:len(verb)-1]...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, "-o", out, verb[len(verb)-1])...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %v: %v\n%s", verb, err, b)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// failures returns what go test said of failed tests.
func failures(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "_test.go:") || strings.Contains(line, "--- FAIL") || strings.HasPrefix(line, "panic:") {
			out.WriteString(line)
		}
	}
	return out.String()
}
