// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/fairlead/fairlead/cni/wire"
)

// agent answers STATUS with err.
type agent struct{ err error }

func (a agent) Handle(context.Context, *wire.Request, *os.File) ([]byte, error) { return nil, a.err }
func (a agent) Abandoned(context.Context, *wire.Request, []byte)                {}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := wire.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func options(t *testing.T) (Options, []string) {
	dir := t.TempDir()
	o := Options{Source: filepath.Join(dir, "src"), BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "conf"), Socket: filepath.Join(dir, "sock"), QueueDir: filepath.Join(dir, "q")}
	if err := os.WriteFile(o.Source, []byte("#!/bin/sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return o, []string{"--plugin", o.Source, "--cni-bin-dir", o.BinDir, "--cni-conf-dir", o.ConfDir, "--cni-socket", o.Socket, "--cni-queue-dir", o.QueueDir}
}

func run(t *testing.T, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := NewCommand(&out)
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestInstallWaitsForTheAgent(t *testing.T) {
	o, flags := options(t)
	if _, err := run(t, append([]string{"install", "--wait", "300ms"}, flags...)...); err == nil {
		t.Fatal("installed a configuration with no agent")
	}
	if _, err := os.Stat(o.binary()); err != nil {
		t.Error("the plugin must be there before the agent is:", err)
	}
	if _, err := os.Stat(o.conf()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the configuration must not:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	l := listen(t, o.Socket)
	go func() { done <- wire.Serve(ctx, l, agent{}) }()
	if _, err := run(t, append([]string{"install", "--wait", "10s"}, flags...)...); err != nil {
		t.Fatal(err)
	}
	list, err := libcni.ConfListFromFile(o.conf())
	if err != nil || list.CNIVersion != "1.1.0" || list.Name != "fairlead" {
		t.Fatalf("what libcni makes of the configuration: %+v, %v", list, err)
	}
	if out, err := run(t, append([]string{"status"}, flags...)...); err != nil || !strings.Contains(out, "ready") {
		t.Errorf("status after install: %q, %v", out, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, append([]string{"status"}, flags...)...); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("status with the agent gone: %v", err)
	}
	if _, err := os.Stat(o.conf()); err != nil {
		t.Error("a stopped agent must leave the configuration:", err)
	}
	if _, err := run(t, append([]string{"uninstall"}, flags...)...); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, append([]string{"uninstall"}, flags...)...); err != nil {
		t.Error("a second uninstall:", err)
	}
	for _, dir := range []string{o.BinDir, o.ConfDir} {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

func TestNotReadyAgentIsNoAgent(t *testing.T) {
	o, flags := options(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go wire.Serve(ctx, listen(t, o.Socket), agent{types.NewError(types.ErrPluginNotAvailable, "no pod CIDR", "")})
	_, err := run(t, append([]string{"install", "--wait", "300ms"}, flags...)...)
	if err == nil || !strings.Contains(err.Error(), "no pod CIDR") {
		t.Fatal(err)
	}
}

func TestReplaceRunningPlugin(t *testing.T) {
	o, _ := options(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	o.Source = sleep
	if err := InstallPlugin(o); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(o.binary(), "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	o.Source = filepath.Join(t.TempDir(), "new")
	os.WriteFile(o.Source, []byte("#!/bin/true\n"), 0o755)
	if err := InstallPlugin(o); err != nil {
		t.Fatal("replacing a running executable:", err)
	}
	if body, _ := os.ReadFile(o.binary()); string(body) != "#!/bin/true\n" {
		t.Error("the old plugin is still there")
	}
}

func TestKeepRepairs(t *testing.T) {
	o, _ := options(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Keep(ctx, o) }()
	wait := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(15 * time.Second); ; {
			if s, err := Status(o, nil); err == nil && s.Installed() {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: %+v %v", what, s, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	wait("first install")
	os.WriteFile(o.conf(), []byte("{"), 0o644)
	wait("repair of a damaged configuration")
	os.Remove(o.binary())
	wait("repair of a removed plugin")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestForeignConfigurationFirst(t *testing.T) {
	o, _ := options(t)
	if err := errors.Join(InstallPlugin(o), WriteConf(o)); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(o.ConfDir, "05-other.conflist"), []byte("{}"), 0o644)
	s, err := Status(o, nil)
	if err != nil || s.Installed() || s.First != "05-other.conflist" {
		t.Errorf("a network that runtimes prefer must be reported: %+v, %v", s, err)
	}
}
