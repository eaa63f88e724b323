// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
)

// privately runs a command on the node with a folder of the test's own as /var/lib, where CNI clients keep what they know.
func (n *node) privately(env []string, command ...string) (stdout string, err error) {
	state := filepath.Join(n.cfg.Dir, "var-lib")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return "", err
	}
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount --bind "$0" /var/lib && exec "$@"`, state}, command...)...)
	cmd.Env = append(os.Environ(), env...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	n.ns.Do(func() { err = cmd.Run() })
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(command, " "), err, out.String(), errOut.String())
	}
	return out.String(), err
}

// TestCnitool uses the plugin as a person does, by the CNI project's own command: every verb that it has, in old and new versions.
func TestCnitool(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "cnitool")
	if out, err := exec.Command("go", "build", "-o", tool, "github.com/containernetworking/cni/cnitool").CombinedOutput(); err != nil {
		t.Fatalf("build cnitool: %v\n%s", err, out)
	}
	n := single(t)
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			confs := t.TempDir()
			if err := os.WriteFile(filepath.Join(confs, "10-fairlead.conflist"), n.conf(version), 0o600); err != nil {
				t.Fatal(err)
			}
			env := []string{"CNI_PATH=" + pluginDir, "NETCONFPATH=" + confs, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=by-hand", `CAP_ARGS={"mac":"02:11:22:33:44:66"}`}
			run := func(verb string, ns *nettest.NS) (string, error) {
				return n.privately(env, tool, verb, "fairlead", ns.Path())
			}
			a, b := nettest.NewNS(t, "pod"), nettest.NewNS(t, "pod")
			for _, ns := range []*nettest.NS{a, b} {
				out, err := run("add", ns)
				if err != nil {
					t.Fatal(err)
				}
				r, err := create.Create(version, []byte(out))
				if err != nil {
					t.Fatalf("add: %v %s", err, out)
				}
				if !strings.Contains(out, `"02:11:22:33:44:66"`) {
					t.Errorf("add: the capability's MAC is lost: %s", out)
				}
				ips := addresses(t, r)
				if len(ips) != 2 {
					t.Fatalf("add: %s", out)
				}
				for _, ip := range ips {
					serve(t, ns, ip)
					if _, err := ask(n.ns, "tcp", ip, 1000); err != nil {
						t.Errorf("the pod %s: %v", ip, err)
					}
				}
				if _, err := run("check", ns); err != nil {
					t.Error(err)
				}
			}
			if _, err := run("status", a); err != nil {
				t.Error(err)
			}
			for range 2 {
				if _, err := run("del", a); err != nil {
					t.Error(err)
				}
			}
			if left := strings.Join(n.residue(), "\n"); !strings.Contains(left, "interface") {
				t.Errorf("del of one took the other: %s", left)
			}
			last := "del" // gc came with 1.1.0
			if version == "1.1.0" {
				last = "gc"
			}
			if _, err := run(last, b); err != nil {
				t.Error(err)
			}
			n.clean(last)
			n.kill()
			if out, err := run("add", a); err == nil || !strings.Contains(err.Error(), "agent") {
				t.Errorf("add without an agent: %s %v", out, err)
			}
			if _, err := run("status", a); version == "1.1.0" && (err == nil || !strings.Contains(err.Error(), "agent")) {
				t.Errorf("status without an agent: %v", err)
			}
			n.start()
		})
	}
}
