// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/testcluster"
)

var otherPort = testcluster.Port(100)

func options(port int) sandbox.UpOptions {
	return sandbox.UpOptions{
		Servers: 1, Families: sandbox.Families{IPv4: true}, APIPort: port, Binary: filepath.Join(env.bin, "fairlead"), Out: io.Discard,
	}
}

func TestSecondUpIsRefusedAndHarmless(t *testing.T) {
	if err := env.sandbox.Up(t.Context(), options(testcluster.Port(0))); err == nil || !strings.Contains(err.Error(), "is up already") {
		t.Errorf("a second up: %v, want it to say that the sandbox is up already", err)
	}
	if out := kubectl(t, "get", "nodes", "--no-headers"); strings.Count(out, " Ready ") != 3 {
		t.Errorf("after a second up the nodes are\n%s", out)
	}
}

func TestPortInUseIsSaidBeforeAnythingChanges(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(otherPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := testcluster.New(t, "port")
	if err := s.Up(t.Context(), options(otherPort)); err == nil || !strings.Contains(err.Error(), "choose a free port with --api-port") {
		t.Errorf("error %v, want it to say what to do about the port", err)
	}
	if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was made although the port was in use", s.Dir)
	}
}

func TestMissingImageIsSaidBeforeAnythingChanges(t *testing.T) {
	s := testcluster.New(t, "image")
	o := options(otherPort)
	o.Images = []string{"/nonexistent/image.tar"}
	if err := s.Up(t.Context(), o); err == nil || !strings.Contains(err.Error(), "/nonexistent/image.tar") {
		t.Errorf("error %v, want it to name the image", err)
	}
}

func TestDownCleansUpAfterKill(t *testing.T) {
	s := testcluster.New(t, "kill")
	cmd := exec.Command(filepath.Join(env.bin, "fairlead"), "sandbox", "--name", s.Name, "up", "--nodes=1", "--api-port="+strconv.Itoa(otherPort))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		_, err := os.Stat(s.LogFile("server-1")) // the server has started: everything of the sandbox exists
		return err
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for range 2 { // twice in a row is harmless
		if err := s.Down(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", s.Dir, err)
	}
	left, err := filepath.Glob("/sys/fs/cgroup/*/fairlead-sandbox-" + s.Name)
	if err != nil || len(left) > 0 {
		t.Errorf("cgroups are left: %v %v", left, err)
	}
	if _, err := s.Load(); !errors.Is(err, sandbox.ErrNotUp) {
		t.Errorf("state after down: %v, want ErrNotUp", err)
	}
}
