// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/hack/images/testimage"
)

// TestMain lets the test executable be the daemon and the shim, as the one binary is.
func TestMain(m *testing.M) {
	if code, ran := Dispatch(os.Args); ran {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// node is a runtime of the test's own.
type node struct {
	t      *testing.T
	cfg    Config
	cancel context.CancelFunc
	done   chan error
	ready  chan struct{}
}

func newNode(t *testing.T) *node {
	t.Helper()
	run, err := os.MkdirTemp("/run", "flc") // shim sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Config{DataDir: t.TempDir(), RunDir: run}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, cfg: cfg}
	t.Cleanup(func() {
		n.leave()
		if err := Teardown(context.Background(), cfg); err != nil {
			t.Error(err)
		}
	})
	return n
}

// agent starts a supervisor and waits until the runtime is ready.
func (n *node) agent() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done, n.ready = cancel, make(chan error, 1), make(chan struct{}, 16)
	go func() {
		n.done <- Run(ctx, n.cfg, func(context.Context) error { n.ready <- struct{}{}; return nil })
	}()
	n.waitReady()
}

func (n *node) waitReady() {
	n.t.Helper()
	select {
	case <-n.ready:
	case <-time.After(60 * time.Second):
		log, _ := os.ReadFile(n.cfg.logFile())
		n.t.Fatalf("runtime not ready\n%s", log)
	}
}

// leave ends the supervisor, not the daemon.
func (n *node) leave() {
	if n.cancel != nil {
		n.cancel()
		<-n.done
		n.cancel = nil
	}
}

func (n *node) daemonPID() int {
	n.t.Helper()
	data, err := os.ReadFile(n.cfg.pidFile())
	if err != nil {
		n.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		n.t.Fatal(err)
	}
	return pid
}

// cri runs f with a CRI client.
func (n *node) cri(f func(ctx context.Context, cri runtimeapi.RuntimeServiceClient)) {
	n.t.Helper()
	images, err := OpenImages(n.cfg.Socket(), "")
	if err != nil {
		n.t.Fatal(err)
	}
	defer images.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	f(ctx, runtimeapi.NewRuntimeServiceClient(images.conn()))
}

// runContainer starts testapp with args in a host-network pod and returns its container id.
func (n *node) runContainer(name string, args ...string) (id string) {
	n.t.Helper()
	id = n.makeContainer(name, args...)
	n.cri(func(ctx context.Context, cri runtimeapi.RuntimeServiceClient) {
		if _, err := cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
			n.t.Fatal(err)
		}
	})
	return id
}

// makeContainer is runContainer without the start.
func (n *node) makeContainer(name string, args ...string) (id string) {
	n.t.Helper()
	n.cri(func(ctx context.Context, cri runtimeapi.RuntimeServiceClient) {
		hostNetwork := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
		pod := &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name}, LogDirectory: n.t.TempDir(),
			Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: hostNetwork}},
		}
		sandbox, err := cri.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
		if err != nil {
			n.t.Fatal(err)
		}
		container, err := cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
			PodSandboxId: sandbox.PodSandboxId, SandboxConfig: pod,
			Config: &runtimeapi.ContainerConfig{
				Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: testimage.Name}, Args: args, LogPath: "app.log",
				Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: hostNetwork}},
			},
		})
		if err != nil {
			n.t.Fatal(err)
		}
		id = container.ContainerId
	})
	return id
}

// state returns the container's state and process.
func (n *node) state(id string) (state runtimeapi.ContainerState, startedAt int64) {
	n.t.Helper()
	n.cri(func(ctx context.Context, cri runtimeapi.RuntimeServiceClient) {
		status, err := cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			n.t.Fatal(err)
		}
		state, startedAt = status.Status.State, status.Status.StartedAt
	})
	return state, startedAt
}

// importTestImage drops the archive, compressed, into the image directory and waits until it is there.
func (n *node) importTestImage() {
	n.t.Helper()
	compressor, err := zstd.NewWriter(nil)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.cfg.ImageDir(), "testapp.tar.zst"), compressor.EncodeAll(testimage.Build(n.t), nil), 0o644); err != nil {
		n.t.Fatal(err)
	}
	images, err := OpenImages(n.cfg.Socket(), "")
	if err != nil {
		n.t.Fatal(err)
	}
	defer images.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := images.waitKnown(ctx, testimage.Name); err != nil {
		n.t.Fatal(err)
	}
	listed, err := runtimeapi.NewImageServiceClient(images.conn()).ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, want := range []string{SandboxImage, testimage.Name} {
		if !slices.ContainsFunc(listed.Images, func(i *runtimeapi.Image) bool {
			return slices.Contains(i.RepoTags, want) && i.Pinned == (want == SandboxImage) && i.Size > 0
		}) {
			n.t.Errorf("image list %v lacks %s", listed.Images, want)
		}
	}
}

// One story, because starting a daemon is the expensive part: containers run, and live on when the agent goes, comes back, and when the
// daemon is killed.
func TestRuntimeOutlivesItsAgent(t *testing.T) {
	n := newNode(t)
	n.agent()
	n.importTestImage()
	id := n.runContainer("lasting", "forever")
	first := n.daemonPID()
	if state, _ := n.state(id); state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("container is %v", state)
	}
	_, started := n.state(id)

	for i := range 10 { // starts whose callers die one after the other
		cut := n.makeContainer(fmt.Sprintf("cut-%d", i), "forever")
		n.cri(func(ctx context.Context, cri runtimeapi.RuntimeServiceClient) {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(i)*3*time.Millisecond)
			defer cancel()
			_, _ = cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: cut})
		})
		n.cri(func(ctx context.Context, cri runtimeapi.RuntimeServiceClient) {
			_, _ = cri.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: cut}) // waits for the first, or is told that it runs
		})
		if state, _ := n.state(cut); state != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("container %d is %v: its start ended with its caller", i, state)
		}
	}

	n.leave()
	if err := unix.Kill(first, 0); err != nil {
		t.Fatalf("the daemon ended with its agent: %v", err)
	}
	n.agent()
	if pid := n.daemonPID(); pid != first {
		t.Errorf("the second agent started daemon %d instead of adopting %d", pid, first)
	}

	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.waitReady()
	if pid := n.daemonPID(); pid == first {
		t.Error("the killed daemon was not replaced")
	}
	if state, again := n.state(id); state != runtimeapi.ContainerState_CONTAINER_RUNNING || again != started {
		t.Errorf("container is %v, started %d, was %d: it did not live through the daemon's death", state, again, started)
	}
}

func TestConfigNamesNothingOutsideTheNode(t *testing.T) {
	cfg, err := Config{DataDir: "/d/agent", RunDir: "/r"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cfg.render(Host{RestrictOOM: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`root = "/d/agent/root"`, `state = "/r/state"`, `address = "/r/containerd.sock"`, `Root = "/r/runc"`, `socket_dir = "/r/s"`,
		`conf_dir = "/d/agent/cni/net.d"`, "restrict_oom_score_adj = true", `sandbox = "fairlead.io/pause:1"`} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("configuration lacks %s\n%s", want, out)
		}
	}
	if bytes.Contains(out, []byte("/run/containerd")) || bytes.Contains(out, []byte("/var/lib/containerd")) {
		t.Errorf("configuration names the machine's own containerd\n%s", out)
	}
}

func TestConfigRejects(t *testing.T) {
	if _, err := (Config{DataDir: "relative", RunDir: "/r"}).withDefaults(); err == nil {
		t.Error("a relative data directory was accepted")
	}
	cfg, err := Config{DataDir: "/d\nroot = 1", RunDir: "/r"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.render(Host{}); err == nil {
		t.Error("a path with a line break was written into the configuration")
	}
}

func TestSocketDirFitsASocketAddress(t *testing.T) {
	cfg := Config{RunDir: "/run/" + strings.Repeat("long/", 20)}
	if dir := cfg.socketDir(); len(dir) > maxSocketDir || dir == (Config{RunDir: "/run/" + strings.Repeat("lang/", 20)}).socketDir() {
		t.Errorf("socket directory %q is too long or shared", dir)
	}
}

func TestDecompressOfRubbish(t *testing.T) {
	if _, _, err := decompress(strings.NewReader("")); err == nil {
		t.Error("an empty archive was accepted")
	}
	if _, _, err := decompress(bytes.NewReader([]byte{0x1f, 0x8b, 0, 0})); err == nil {
		t.Error("a broken gzip header was accepted")
	}
}

func TestStartTicks(t *testing.T) {
	if got := startTicks(os.Getpid()); got == "" || got == "0" {
		t.Errorf("start of this process: %q", got)
	}
	if got := startTicks(1 << 30); got != "" {
		t.Errorf("start of a process that does not exist: %q", got)
	}
}

func FuzzDecompress(f *testing.F) {
	f.Add([]byte("plain tar"))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, done, err := decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer done()
		var out [1 << 12]byte
		if _, err := r.Read(out[:]); errors.Is(err, os.ErrInvalid) {
			t.Error(err)
		}
	})
}
