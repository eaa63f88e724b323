// SPDX-License-Identifier: Apache-2.0

//go:build vm

package vm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/kubectl"
	"github.com/fairlead/fairlead/hack/load"
	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/vm"
)

// web is smaller than the sample: an emulated processor is slow.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: fairlead.io/sample:latest
        imagePullPolicy: IfNotPresent
        args: [serve, --listen=:8080]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`

// TestSandboxOnAnotherKernel starts a sandbox on each kernel as a user does, and uses it from outside the machine.
func TestSandboxOnAnotherKernel(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	fairlead := filepath.Join(root, "bin", "fairlead")
	image := filepath.Join(root, "out", "images", "sample.tar")
	for _, k := range vm.Kernels {
		t.Run(k.Series, func(t *testing.T) {
			installed, err := k.Fetch(t.Context(), filepath.Join(root, "out", "vm", "kernels"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := sandbox.Open(sandbox.DefaultDir, "vm-"+k.Series)
			if err != nil {
				t.Fatal(err)
			}
			port := tcpPort(t)
			run := func(args ...string) (string, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
				defer cancel()
				var out bytes.Buffer
				cmd := exec.CommandContext(ctx, fairlead, append([]string{"sandbox", "--name", s.Name}, args...)...)
				cmd.Stdout, cmd.Stderr = &out, &out
				err := cmd.Run()
				return out.String(), err
			}
			down := func() {
				cmd := exec.Command(fairlead, "sandbox", "--name", s.Name, "down")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("down: %v\n%s", err, out)
				}
			}
			defer down()
			out, err := run("up", "--kernel", installed.Image, "--nodes", "1", "--dual", "--api-port", strconv.Itoa(port), "--image", image)
			if err != nil {
				t.Fatalf("up: %v\n%s", err, out)
			}
			t.Logf("%s", out)
			if out, err := run("up", "--kernel", installed.Image, "--nodes", "1", "--api-port", strconv.Itoa(port)); err == nil || !strings.Contains(out, "is up already") {
				t.Errorf("a second up: %v\n%s", err, out)
			}
			client := kubectl.Client{Fairlead: fairlead, Kubeconfig: s.Kubeconfig()}
			version, err := client.Run(t.Context(), "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kernelVersion}")
			if err != nil || version != installed.Release {
				t.Errorf("the node's kernel is %q, %v; want %s", version, err, installed.Release)
			}
			if out, err := run("shell", "server-1", "--", "uname", "-r"); err != nil || strings.TrimSpace(out) != installed.Release {
				t.Errorf("shell: %q, %v", out, err)
			}
			if out, err := run("shell", "server-1", "--", "sh", "-c", "exit 9"); err == nil || cmdStatus(err) != 9 {
				t.Errorf("exit status of a command in the machine: %v\n%s", err, out)
			}
			if err := client.Apply(t.Context(), web); err != nil {
				t.Fatal(err)
			}
			if out, err := client.Run(t.Context(), "rollout", "status", "deployment/web", "--timeout=8m"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err = run("load", "--url", "http://10.111.0.11:30080/", "--rate", "2", "--duration", "10s", "--timeout", "30s", "-o", "json")
			var got load.Result
			if err == nil {
				err = json.Unmarshal([]byte(out), &got)
			}
			if err != nil || got.Sent < 10 || got.Failed != 0 {
				t.Errorf("load on the node port: %v\n%s", err, out)
			}
			if out, err := run("status"); err != nil || !strings.Contains(out, "server-1") || !strings.Contains(out, "running") {
				t.Errorf("status: %v\n%s", err, out)
			}
			down()
			if _, err := os.Stat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("down left %s: %v", s.Dir, err)
			}
			if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
				conn.Close()
				t.Error("something still listens at the API's port")
			}
		})
	}
}

func cmdStatus(err error) int {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return -1
	}
	return exit.ExitCode()
}

func tcpPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
