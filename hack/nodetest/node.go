// SPDX-License-Identifier: Apache-2.0

// Package nodetest runs one real node in a test: an API server and store in the test's process, the embedded containerd as a child, the
// kubelet, real containers. The whole test process lives in a network and a mount namespace of its own, so pods have a bridge and
// addresses that reach nothing outside, and no mount is left behind.
package nodetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
	"github.com/fairlead/fairlead/dataplane/containerd"
	"github.com/fairlead/fairlead/dataplane/kubelet"
	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/hack/images/testimage"
)

const (
	isolatedEnv = "FAIRLEAD_NODETEST_ISOLATED"
	// NodeName is the node's name.
	NodeName = "node"
)

// Main is TestMain: it calls outside on the machine as it is, makes the process able to be containerd and its shim, and gives it namespaces of its own, which have no network.
func Main(m *testing.M, outside ...func() error) {
	if code, ran := containerd.Dispatch(os.Args); ran {
		os.Exit(code)
	}
	if file := os.Getenv(childEnv); file != "" {
		os.Exit(runChild(file))
	}
	if os.Getenv(isolatedEnv) == "" {
		for _, prepare := range outside {
			if err := prepare(); err != nil {
				fmt.Fprintln(os.Stderr, "nodetest:", err)
				os.Exit(1)
			}
		}
		os.Exit(isolate())
	}
	if err := prepareNamespaces(); err != nil {
		fmt.Fprintln(os.Stderr, "nodetest:", err)
		os.Exit(1)
	}
	code := m.Run()
	if all, err := buildOnce(); err == nil {
		os.RemoveAll(filepath.Dir(all.shim))
	}
	os.Exit(code)
}

// isolate runs this program again in new namespaces.
func isolate() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodetest:", err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "nodetest: network and mount namespaces (root is needed):", err)
		}
		return 1
	}
	return 0
}

func prepareNamespaces() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	address, err := netlink.ParseAddr(NodeIP + "/32")
	if err != nil {
		return err
	}
	return netlink.AddrAdd(lo, address)
}

// NodeIP is the node's address in the test's own network namespace.
const NodeIP = "192.0.2.10"

// Node is a running node with its API server.
type Node struct {
	T      testing.TB
	REST   *rest.Config
	Client kubernetes.Interface
	Config Config

	cancel context.CancelFunc
	done   chan error
	agent  *exec.Cmd
}

// Config is what a test may change of its node.
type Config struct {
	DataDir, RunDir, CgroupRoot string
	Containerd                  containerd.Config
	Foreign                     bool // another runtime, at Kubelet.CRIEndpoint, that the test runs
	Kubelet                     kubelet.Config
}

// run is the node: the runtime, and the kubelet once that is ready.
func (c Config) run(ctx context.Context) error {
	if c.Foreign {
		return kubelet.Run(ctx, c.Kubelet)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	runtime := make(chan error, 1)
	ready := make(chan struct{})
	var once sync.Once
	go func() {
		runtime <- containerd.Run(ctx, c.Containerd, func(context.Context) error { once.Do(func() { close(ready) }); return nil })
	}()
	select {
	case <-ready:
	case err := <-runtime:
		return err
	}
	err := kubelet.Run(ctx, c.Kubelet)
	cancel()
	return errors.Join(err, <-runtime)
}

// Start runs a node until the test ends. configure may change its configuration.
func Start(t testing.TB, configure func(*Config)) *Node {
	t.Helper()
	return StartWith(t, nil, configure)
}

// StartWith also changes the API server's configuration.
func StartWith(t testing.TB, server func(*apiserver.Config), configure func(*Config)) *Node {
	t.Helper()
	run, err := os.MkdirTemp("/run", "fln")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(run, 0o711); err != nil { // processes of user namespaces pass through
		t.Fatal(err)
	}
	n := &Node{T: t, REST: apitest.Start(t, apitest.Options{Configure: server})}
	n.Client = kubernetes.NewForConfigOrDie(n.REST)
	data := t.TempDir()
	layout, err := cgroups.Detect()
	if err != nil {
		t.Fatal(err)
	}
	root := "/fairlead-" + filepath.Base(run)
	n.Config = Config{
		DataDir: data, RunDir: run, CgroupRoot: root,
		Containerd: containerd.Config{DataDir: filepath.Join(data, "containerd"), RunDir: filepath.Join(run, "containerd"),
			CgroupDir: layout.CgroupDir(filepath.Join(root, "runtime"))},
		Kubelet: kubelet.Config{DataDir: filepath.Join(data, "kubelet"), CgroupRoot: root, NodeName: NodeName, NodeIPs: []string{NodeIP}, REST: n.REST, Port: -1, Address: "127.0.0.1",
			PodLogsDir: filepath.Join(data, "logs"), ClusterDNS: []string{"192.0.2.53"}, QPS: 500, Burst: 500,
			EvictionHard: map[string]string{}},
	}
	n.Config.Kubelet.CRIEndpoint = n.Config.Containerd.Endpoint()
	if configure != nil {
		configure(&n.Config)
	}
	n.writeNetwork()
	for _, namespace := range []string{metav1.NamespaceDefault, v1.NamespaceNodeLease} {
		_, _ = n.Client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	}
	built, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	n.Config.Containerd.ShimExecutable = built.shim
	images := filepath.Join(data, "containerd", "images")
	if err := os.MkdirAll(images, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(images, "testapp.tar"), built.image, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.cleanup)
	n.Up()
	return n
}

// built is what nodes of all tests of this process share.
type built struct {
	shim  string
	image []byte
}

var buildOnce = sync.OnceValues(func() (built, error) {
	dir, err := os.MkdirTemp("", "nodetest")
	if err != nil {
		return built{}, err
	}
	out := built{shim: filepath.Join(dir, "fairlead-shim")}
	cmd := exec.Command("go", "build", "-o", out.shim, "github.com/fairlead/fairlead/cmd/fairlead-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return out, fmt.Errorf("build the shim: %w\n%s", err, output)
	}
	out.image, err = testimage.Archive(dir)
	return out, err
})

// writeNetwork gives pods a bridge, by the plugins of Debian's containernetworking-plugins.
func (n *Node) writeNetwork() {
	n.T.Helper()
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		n.T.Fatalf("the CNI plugins bridge and host-local are needed (Debian: containernetworking-plugins): %v", err)
	}
	dir := filepath.Join(n.Config.DataDir, "containerd", "cni", "net.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.T.Fatal(err)
	}
	conflist := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"nodetest","plugins":[{"type":"bridge","bridge":"nodetest0","isGateway":true,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"198.18.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, filepath.Join(n.Config.RunDir, "ipam"))
	if err := os.WriteFile(filepath.Join(dir, "10-nodetest.conflist"), []byte(conflist), 0o644); err != nil {
		n.T.Fatal(err)
	}
}

// In is the node for a subtest.
func (n *Node) In(t testing.TB) *Node {
	own := *n
	own.T = t
	return &own
}

// Up starts the agent and waits until the node is ready.
func (n *Node) Up() {
	n.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	cfg := n.Config
	cfg.Kubelet.OnReady = func() { close(ready) }
	n.cancel, n.done = cancel, make(chan error, 1)
	go func() { n.done <- cfg.run(ctx) }()
	select {
	case <-ready:
	case err := <-n.done:
		n.T.Fatalf("the agent ended: %v", err)
	case <-time.After(90 * time.Second):
		log, _ := os.ReadFile(filepath.Join(n.Config.DataDir, "containerd", "log", "containerd.log"))
		n.T.Fatalf("the node is not ready\n%s", log)
	}
}

// Down ends the agent; containers and the runtime live on.
func (n *Node) Down() {
	n.T.Helper()
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	select {
	case err := <-n.done:
		if err != nil {
			n.T.Errorf("agent: %v", err)
		}
	case <-time.After(30 * time.Second):
		n.T.Error("the agent did not end within 30 s")
	}
}

func (n *Node) cleanup() {
	n.Kill()
	n.Down()
	if err := containerd.Teardown(context.Background(), n.Config.Containerd); err != nil {
		n.T.Error(err)
	}
	if err := os.RemoveAll(n.Config.RunDir); err != nil {
		n.T.Error(err)
	}
	n.removeCgroups()
	for _, point := range mounts(n.Config.DataDir) {
		_ = unix.Unmount(point, unix.MNT_DETACH)
	}
}

// removeCgroups takes the node's cgroups away in every hierarchy.
func (n *Node) removeCgroups() {
	layout, err := cgroups.Detect()
	if err != nil {
		n.T.Error(err)
		return
	}
	roots := append([]string{layout.Unified, layout.Hybrid}, layout.Named...)
	for _, dir := range layout.Controllers {
		roots = append(roots, dir)
	}
	for _, root := range roots {
		if root == "" {
			continue
		}
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(root, n.Config.CgroupRoot), func(name string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, name)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = unix.Rmdir(dirs[i])
		}
	}
}
