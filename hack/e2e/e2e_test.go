// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e tries the built executables on a real cluster of three nodes in the sandbox, with real containers and kubectl as the client.
//
//	make build images && go test -tags e2e ./hack/e2e/...
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/hack/await"
	"github.com/fairlead/fairlead/hack/images/testimage"
	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/testcluster"
)

const (
	manifest = "../sample/sample.yaml"
	// shellImage is a shell and hack/images/testapp.
	shellImage = "fairlead.io/shell:1"
)

// env is the cluster under test.
var env struct {
	sandbox *sandbox.Sandbox
	client  kubernetes.Interface
	bin     string // directory of the executables
}

func TestMain(m *testing.M) {
	flag.Parse()
	if list := flag.Lookup("test.list"); list.Value.String() != "" {
		os.Exit(m.Run()) // no cluster is needed to name the tests
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	root, err := testcluster.Root()
	if err != nil {
		return 1, err
	}
	if name := os.Getenv("FAIRLEAD_E2E_ATTACH"); name != "" {
		return attached(m, root, name)
	}
	images, err := testcluster.Images(root)
	if err != nil {
		return 1, err
	}
	scratch, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(scratch)
	shell, err := testimage.Shell(scratch, shellImage)
	if err != nil {
		return 1, err
	}
	images = append(images, filepath.Join(scratch, "shell.tar"))
	if err := os.WriteFile(images[len(images)-1], shell, 0o644); err != nil {
		return 1, err
	}
	s, err := testcluster.Open(root, "")
	if err != nil {
		return 1, err
	}
	env.sandbox, env.bin = s, s.Bin
	defer func() {
		if code != 0 {
			err = errors.Join(err, testcluster.Keep(s, root))
		}
		err = errors.Join(err, s.Down())
	}()
	err = s.Up(ctx, sandbox.UpOptions{
		Servers: 1, Agents: 2, Families: sandbox.Families{IPv4: true, IPv6: true}, APIPort: testcluster.Port(0),
		Binary: filepath.Join(env.bin, "fairlead"), Images: images, Out: os.Stdout,
	})
	if err != nil {
		return 1, err
	}
	if env.client, err = s.Client(); err != nil {
		return 1, err
	}
	if err := s.Sample(ctx, manifest, os.Stdout); err != nil {
		return 1, err
	}
	code = m.Run()
	if err := noneRefused(s, "server-1"); err != nil {
		return 1, err
	}
	return code, nil
}

// attached runs tests on a sandbox that is there already, and stays: quick while a test is being written. It needs the sample's image and the one with a shell.
func attached(m *testing.M, root, name string) (code int, err error) {
	s, err := sandbox.Open(sandbox.DefaultDir, name)
	if err != nil {
		return 1, err
	}
	s.Bin = filepath.Join(root, "bin")
	env.sandbox, env.bin = s, s.Bin
	if env.client, err = s.Client(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// refusal is how the API server tells a controller that its role does not allow something.
var refusal = regexp.MustCompile(`forbidden: User \\?"system:serviceaccount:kube-system:[^"]*`)

// noneRefused looks through the log of a server for what its controllers were not allowed: their roles must suffice for all that the tests have made them do.
func noneRefused(s *sandbox.Sandbox, server string) error {
	text, err := os.ReadFile(s.LogFile(server))
	if err != nil {
		return err
	}
	var refused []error
	for line := range strings.Lines(string(text)) {
		if refusal.MatchString(line) {
			refused = append(refused, fmt.Errorf("a controller's role does not suffice: %s", strings.TrimSpace(line)))
		}
	}
	return errors.Join(refused...)
}

// kubectl runs the embedded kubectl and returns its standard output. It also serves cleanups, where the test's context has ended.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := env.sandbox.Kubectl().Run(context.WithoutCancel(t.Context()), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply applies a manifest.
func apply(t *testing.T, manifest string) {
	t.Helper()
	if err := env.sandbox.Kubectl().Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f returns nil.
func eventually(t *testing.T, patience time.Duration, f func() error) {
	t.Helper()
	await.Nil(t, patience, f)
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
