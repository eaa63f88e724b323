// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e tries the built executables on a real cluster of three nodes in the sandbox, with real containers and kubectl as the client.
//
//	make build images && go test -tags e2e ./hack/e2e/...
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/hack/sandbox"
)

const (
	apiPort  = 17443
	manifest = "../sample/sample.yaml"
)

// env is the cluster under test.
var env struct {
	sandbox *sandbox.Sandbox
	client  kubernetes.Interface
	bin     string // directory of the executables
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx := context.Background()
	root, err := filepath.Abs("../..")
	if err != nil {
		return 1, err
	}
	env.bin = filepath.Join(root, "bin")
	s, err := sandbox.Open(sandbox.DefaultDir, "e2e")
	if err != nil {
		return 1, err
	}
	s.Bin = env.bin
	env.sandbox = s
	images, err := filepath.Glob(filepath.Join(root, "out", "images", "*.tar"))
	if err != nil || len(images) == 0 {
		return 1, fmt.Errorf("no images below out/images (%v): run make build images", err)
	}
	if err := s.Down(); err != nil {
		return 1, err
	}
	upErr := s.Up(ctx, sandbox.UpOptions{
		Servers: 1, Agents: 2, Families: sandbox.Families{IPv4: true, IPv6: true}, APIPort: apiPort,
		Binary: filepath.Join(env.bin, "fairlead"), Images: images, Out: os.Stdout,
	})
	code := 1
	if upErr == nil {
		if env.client, upErr = s.Client(); upErr == nil {
			upErr = s.Sample(ctx, manifest, os.Stdout)
		}
		if upErr == nil {
			code = m.Run()
		}
	}
	if code != 0 {
		keep := filepath.Join(root, "out", "test", "sandbox")
		if err := s.Collect(ctx, keep); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: collecting logs:", err)
		}
		fmt.Fprintln(os.Stderr, "e2e: logs, events and map dumps are in", keep)
	}
	if err := s.Down(); err != nil && upErr == nil {
		upErr = err
	}
	return code, upErr
}

// kubectl runs the embedded kubectl and returns its standard output.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(filepath.Join(env.bin, "fairlead"), append([]string{"kubectl", "--kubeconfig", env.sandbox.Kubeconfig()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String()
}

// apply applies a manifest.
func apply(t *testing.T, manifest string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(env.bin, "fairlead"), "kubectl", "--kubeconfig", env.sandbox.Kubeconfig(), "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
}

// eventually waits until f returns nil.
func eventually(t *testing.T, patience time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func webService(t *testing.T) *corev1.Service {
	t.Helper()
	svc, err := env.client.CoreV1().Services("sample").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

func url(host string, port int32) string {
	return "http://" + net.JoinHostPort(host, strconv.Itoa(int(port))) + "/"
}
