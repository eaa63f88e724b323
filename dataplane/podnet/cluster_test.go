// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/rlimit"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/endpoint"
	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
	"github.com/fairlead/fairlead/hack/await"
)

// The tests run agents as processes of their own, as on a node, each in its network namespace: this binary with agentEnv set.
const agentEnv = "FAIRLEAD_TEST_AGENT"

type agentConfig struct {
	Node       string
	Dir        string
	Mode       route.Mode
	Quarantine time.Duration
	Sweep      time.Duration
	Nodes      []*tables.Node
	// Sandboxes names a file with the container IDs that the runtime knows, one per line; empty: no runtime.
	Sandboxes string
	MTU       int
	// Device is the kind of pair that pods get.
	Device endpoint.Device
	// NoTCX has programs attached as on a kernel before 6.6.
	NoTCX bool
	// Services and Slices, if there are any, make the agent run the load balancer too, without socket hooks: every packet is translated.
	Services []*tables.Service
	Slices   []*tables.EndpointSlice
	// Answers are what the node answers at Services' own addresses.
	Answers []*tables.Answer
}

var pluginDir string

// What the suite runs on where there is no compiler (hack/vm), and with which pairs.
var (
	builtPlugin = flag.String("plugin-dir", "", "directory that has fairlead-cni; empty: it is built")
	patience    = flag.Duration("patience", time.Minute, "how long a condition is waited for: an emulated processor needs more")
	device      = flag.String("device", string(endpoint.DeviceAuto), "pairs that pods get: auto, veth, netkit")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if c := os.Getenv(agentEnv); c != "" {
		if err := runAgent(c); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "flp-plugin-")
	if err != nil {
		panic(err)
	}
	pluginDir = dir
	if *builtPlugin != "" {
		pluginDir = *builtPlugin
	} else if out, err := exec.Command("go", "build", "-o", dir+"/fairlead-cni", "github.com/fairlead/fairlead/cmd/fairlead-cni").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the plugin: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func runAgent(config string) error {
	if config == "uninstall" {
		return Uninstall()
	}
	var c agentConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	if v := os.Getenv("FAIRLEAD_TEST_V"); v != "" { // verbosity of the agents' logs
		flags := flag.NewFlagSet("klog", flag.ContinueOnError)
		klog.InitFlags(flags)
		flags.Set("v", v)
	}
	rlimit.RemoveMemlock()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ld, err := loader.Open(loader.Config{PinDir: filepath.Join(c.Dir, "bpf"), NoTCX: c.NoTCX, MapSizes: map[string]uint32{"masquerade": 4096, "inbound": 1024, "ct_tcp": 1 << 17, "ct_any": 4096, "services": 1024, "backends": 1024, "slots": 1024, "backend_loads": 1024}})
	if err != nil {
		return err
	}
	t, err := tables.New()
	if err != nil {
		return err
	}
	var accepted []netip.Addr
	for _, a := range c.Answers {
		accepted = append(accepted, a.At.Addr())
	}
	if err := route.Accept(accepted); err != nil {
		return err
	}
	txn := t.DB.WriteTxn(t.Nodes, t.Services, t.EndpointSlices, t.Answers)
	for _, a := range c.Answers {
		if _, _, err := t.Answers.Insert(txn, a); err != nil {
			return err
		}
	}
	for _, s := range c.Services {
		if _, _, err := t.Services.Insert(txn, s); err != nil {
			return err
		}
	}
	for _, s := range c.Slices {
		if _, _, err := t.EndpointSlices.Insert(txn, s); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if _, _, err := t.Nodes.Insert(txn, n); err != nil {
			return err
		}
	}
	txn.Commit()
	var ips []netip.Addr
	for _, n := range c.Nodes {
		if n.Name == c.Node {
			ips = n.InternalIPs
		}
	}
	cfg := Config{NodeName: c.Node, NodeIPs: ips, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")}, DataDir: filepath.Join(c.Dir, "data"), RunDir: filepath.Join(c.Dir, "run"), Loader: ld, Tables: t, Mode: c.Mode, MTU: c.MTU,
		Device: c.Device, Quarantine: c.Quarantine, SweepInterval: c.Sweep, ProbeInterval: 100 * time.Millisecond}
	cfg.OnStep = func(s endpoint.Step) {
		fmt.Fprintf(os.Stderr, "%s%s\n", stepMark, s)
		if at, err := os.ReadFile(filepath.Join(c.Dir, killAtFile)); err == nil && string(at) == string(s) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if c.Sandboxes != "" {
		cfg.Sandboxes = func(context.Context) (map[string]bool, error) {
			body, err := os.ReadFile(c.Sandboxes)
			ids := map[string]bool{}
			for _, l := range strings.Fields(string(body)) {
				ids[l] = true
			}
			return ids, err
		}
	}
	go func() { // for leak tests
		for ctx.Err() == nil {
			os.WriteFile(filepath.Join(c.Dir, "goroutines.new"), []byte(strconv.Itoa(runtime.NumGoroutine())), 0o600)
			os.Rename(filepath.Join(c.Dir, "goroutines.new"), filepath.Join(c.Dir, "goroutines"))
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if len(c.Services) == 0 {
		return Run(ctx, cfg)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return Run(ctx, cfg) })
	g.Go(func() error {
		lb := loadbalancer.Config{Tables: t, Loader: ld, NodeName: c.Node, Uplinks: []string{"up0"}, NodeIPs: ips, PodCIDRs: cfg.PodCIDRs, StateDir: cfg.DataDir}
		if c.Mode != route.Native {
			lb.Overlay = route.DeviceName
		}
		return loadbalancer.Run(ctx, lb)
	})
	return g.Wait()
}

// node is one node of a test cluster.
type node struct {
	t   testing.TB
	ns  *nettest.NS
	cfg agentConfig

	mu  sync.Mutex
	cmd *exec.Cmd
	cni *libcni.CNIConfig
}

func newNode(t testing.TB, ns *nettest.NS, cfg agentConfig) *node {
	t.Helper()
	cfg.Dir, cfg.Device = t.TempDir(), endpoint.Device(*device)
	bpf := filepath.Join(cfg.Dir, "bpf")
	if err := os.MkdirAll(bpf, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", bpf, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpffs: %v", err)
	}
	n := &node{t: t, ns: ns, cfg: cfg, cni: libcni.NewCNIConfigWithCacheDir([]string{pluginDir, "/usr/lib/cni", "/opt/cni/bin"}, filepath.Join(cfg.Dir, "cache"), nil)}
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			if log, err := os.ReadFile(filepath.Join(cfg.Dir, "log")); err == nil {
				t.Logf("agent %s:\n%s", cfg.Node, log)
			}
		}
		unix.Unmount(bpf, unix.MNT_DETACH)
	})
	return n
}

// start runs the agent and waits until its socket answers.
func (n *node) start() {
	n.t.Helper()
	body, err := json.Marshal(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(n.cfg.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), agentEnv+"="+string(body))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: 0}
	n.ns.Do(func() { err = cmd.Start() })
	log.Close()
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.cmd = cmd
	n.mu.Unlock()
	n.eventually("the agent is ready", func() error { return n.cni.GetStatusNetworkList(context.Background(), n.list("1.1.0")) })
}

// kill ends the agent as a crash would.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		n.cmd.Process.Kill()
		n.cmd.Wait()
		n.cmd = nil
	}
}

func (n *node) eventually(what string, f func() error) { eventually(n.t, what, f) }

func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	await.Nil(t, *patience, func() error {
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

func (n *node) list(version string, plugins ...string) *libcni.NetworkConfigList {
	n.t.Helper()
	l, err := libcni.ConfListFromBytes(n.conf(version, plugins...))
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

// conf is a conflist with fairlead first and more plugins after it.
func (n *node) conf(version string, plugins ...string) []byte {
	all := append([]string{fmt.Sprintf(`{"type":"fairlead-cni","socket":%q,"queue":%q,"last":%t,"capabilities":{"portMappings":true,"bandwidth":true,"ips":true,"mac":true,"dns":true}}`,
		filepath.Join(n.cfg.Dir, "run", "cni.sock"), filepath.Join(n.cfg.Dir, "data", "cni-deletions"), len(plugins) == 0)}, plugins...)
	return fmt.Appendf(nil, `{"cniVersion":%q,"name":"fairlead","plugins":[%s]}`, version, strings.Join(all, ","))
}

// pod is a connected pod.
type pod struct {
	node *node
	ns   *nettest.NS
	rt   *libcni.RuntimeConf
	ip   map[bool]netip.Addr // by Is4
}

func (n *node) runtimeConf(id string, ns *nettest.NS) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: id, IfName: "eth0", Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", id}}}
	if ns != nil {
		rt.NetNS = ns.Path()
	}
	return rt
}

func (n *node) add(rt *libcni.RuntimeConf, version string) (*types100.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := n.cni.AddNetworkList(ctx, n.list(version), rt)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(r)
}

func (n *node) del(rt *libcni.RuntimeConf) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return n.cni.DelNetworkList(ctx, n.list("1.1.0"), rt)
}

// addresses returns a result's addresses.
func addresses(t testing.TB, raw types.Result) (out []netip.Addr) {
	t.Helper()
	r, err := types100.NewResultFromResult(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		out = append(out, a.Unmap())
	}
	return out
}

func (n *node) pod(id string) *pod {
	n.t.Helper()
	p := &pod{node: n, ns: nettest.NewNS(n.t, "pod"), ip: map[bool]netip.Addr{}}
	p.rt = n.runtimeConf(id, p.ns)
	r, err := n.add(p.rt, "1.1.0")
	if err != nil {
		n.t.Fatalf("ADD %s: %v", id, err)
	}
	for _, a := range addresses(n.t, r) {
		p.ip[a.Is4()] = a
	}
	return p
}

// serve answers each TCP connection and UDP datagram on port 7 of ns with the peer's address as it sees it.
func serve(t testing.TB, ns *nettest.NS, addr netip.Addr) {
	t.Helper()
	at := netip.AddrPortFrom(addr, 7).String()
	var l net.Listener
	var pc net.PacketConn
	var err error
	ns.Do(func() {
		if l, err = net.Listen("tcp", at); err == nil {
			pc, err = net.ListenPacket("udp", at)
		}
	})
	if err != nil {
		t.Fatalf("listen on %s: %v", at, err)
	}
	t.Cleanup(func() { l.Close(); pc.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintln(c, host)
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			if n > 1000 { // a large question has a large answer
				pc.WriteTo(append([]byte(host+"\n"), buf[:n]...), from)
				continue
			}
			pc.WriteTo([]byte(host+"\n"), from)
		}
	}()
}

// ask connects from ns and returns the address that the server saw.
func ask(ns *nettest.NS, network string, to netip.Addr, payload int) (string, error) {
	return askPort(ns, network, netip.AddrPortFrom(to, 7), payload)
}

func askPort(ns *nettest.NS, network string, to netip.AddrPort, payload int) (string, error) {
	var c net.Conn
	var err error
	ns.Do(func() { c, err = net.DialTimeout(network, to.String(), 2*time.Second) })
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	out := make([]byte, payload)
	if network == "udp" {
		if _, err := c.Write(append([]byte("?"), out...)); err != nil {
			return "", err
		}
		buf := make([]byte, 1<<16)
		n, err := c.Read(buf)
		if err != nil {
			return "", err
		}
		if payload > 1000 && n < payload {
			return "", fmt.Errorf("answer of %d bytes to %d", n, payload)
		}
		host, _, _ := strings.Cut(string(buf[:n]), "\n")
		return host, nil
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	host := strings.TrimSpace(string(buf[:n]))
	if payload > 0 {
		errc := make(chan error, 1)
		go func() { _, err := c.Write(out); errc <- err }()
		if _, err := io.ReadFull(c, make([]byte, payload)); err != nil {
			return "", fmt.Errorf("echo of %d bytes: %w", payload, err)
		}
		if err := <-errc; err != nil {
			return "", err
		}
	}
	return host, nil
}
