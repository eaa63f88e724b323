// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/cni/install"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// path is a way from a client to a server, ready to be measured.
type path struct {
	place    string // "one node" or "two nodes"
	name     string // whose network
	from, to *nettest.NS
	addr     netip.Addr
	host     *host // the client's node; nil: none
}

const (
	bare   = "bare veth"
	bridge = "bridge plugin"
)

// agentConfig is what a node's agent process is told.
type agentConfig struct {
	Node  string
	Dir   string
	Mode  route.Mode
	Nodes []*tables.Node
}

// agent runs one node's pod network.
func agent(config string) error {
	var c agentConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ld, err := loader.Open(loader.Config{PinDir: filepath.Join(c.Dir, "bpf")})
	if err != nil {
		return err
	}
	t, err := tables.New()
	if err != nil {
		return err
	}
	var ips []netip.Addr
	txn := t.DB.WriteTxn(t.Nodes)
	for _, n := range c.Nodes {
		if _, _, err := t.Nodes.Insert(txn, n); err != nil {
			return err
		}
		if n.Name == c.Node {
			ips = n.InternalIPs
		}
	}
	txn.Commit()
	return podnet.Run(ctx, podnet.Config{NodeName: c.Node, DataDir: filepath.Join(c.Dir, "data"), RunDir: filepath.Join(c.Dir, "run"), Loader: ld, Tables: t, Mode: c.Mode,
		NodeIPs: ips, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
}

// host is a node with a CNI plugin.
type host struct {
	ns   *nettest.NS
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

// add connects ns and returns its address and the time that it took the caller; del takes it off again.
func (h *host) add(ns *nettest.NS, id string) (addr netip.Addr, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h.ns.Do(func() {
		start := time.Now()
		raw, aerr := h.cni.AddNetworkList(ctx, h.list, &libcni.RuntimeConf{ContainerID: id, NetNS: ns.Path(), IfName: "eth0"})
		took = time.Since(start)
		if err = aerr; err != nil {
			return
		}
		var r *types100.Result
		if r, err = types100.NewResultFromResult(raw); err == nil {
			addr, _ = netip.AddrFromSlice(r.IPs[0].Address.IP)
		}
	})
	return addr.Unmap(), took, err
}

func (h *host) del(ns *nettest.NS, id string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h.ns.Do(func() {
		err = h.cni.DelNetworkList(ctx, h.list, &libcni.RuntimeConf{ContainerID: id, NetNS: ns.Path(), IfName: "eth0"})
	})
	return err
}

func (h *host) pod(s *scope, id string) (*nettest.NS, netip.Addr) {
	ns := nettest.NewNS(s, "pod")
	a, _, err := h.add(ns, id)
	if err != nil {
		s.Fatalf("ADD %s: %v", id, err)
	}
	return ns, a
}

func tempDir(s *scope) string {
	dir, err := os.MkdirTemp("", "flp-bench-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// link connects two node namespaces.
func link(s *scope) (a, b *nettest.NS) {
	a, b = nettest.NewNS(s, "node0"), nettest.NewNS(s, "node1")
	nettest.Connect(s, a, "up0", []string{"192.0.2.10/24"}, b, "up0", []string{"192.0.2.11/24"}, 1500)
	return a, b
}

// fairlead starts agents on two nodes.
func fairlead(s *scope, plugin string, mode route.Mode) [2]*host {
	a, b := link(s)
	var rows []*tables.Node
	for i := range 2 {
		rows = append(rows, &tables.Node{Name: fmt.Sprint("node", i), InternalIPs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.1%d", i))},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i))}})
	}
	var out [2]*host
	for i, ns := range []*nettest.NS{a, b} {
		dir := tempDir(s)
		bpf := filepath.Join(dir, "bpf")
		if err := os.MkdirAll(bpf, 0o700); err != nil {
			s.Fatal(err)
		}
		if err := unix.Mount("bpf", bpf, "bpf", 0, ""); err != nil {
			s.Fatalf("mount a bpffs: %v", err)
		}
		s.Cleanup(func() { unix.Unmount(bpf, unix.MNT_DETACH) })
		body, _ := json.Marshal(agentConfig{Node: rows[i].Name, Dir: dir, Mode: mode, Nodes: rows})
		cmd := exec.Command("/proc/self/exe", "agent", string(body))
		log, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			s.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = log, log
		ns.Do(func() { err = cmd.Start() })
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		conf, err := install.Conflist(install.Options{Socket: filepath.Join(dir, "run", "cni.sock"), QueueDir: filepath.Join(dir, "data", "cni-deletions")})
		if err != nil {
			s.Fatal(err)
		}
		list, err := libcni.ConfListFromBytes(conf)
		if err != nil {
			s.Fatal(err)
		}
		out[i] = &host{ns: ns, list: list, cni: libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(plugin)}, filepath.Join(dir, "cache"), nil)}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := out[i].cni.GetStatusNetworkList(context.Background(), list)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				text, _ := os.ReadFile(log.Name())
				s.Fatalf("agent: %v\n%s", err, text)
			}
		}
	}
	return out
}

// bridged sets two nodes up as the reference plugin does, with routes to each other's pods.
func bridged(s *scope) [2]*host {
	a, b := link(s)
	var out [2]*host
	for i, ns := range []*nettest.NS{a, b} {
		ns.Sysctl(s, "net/ipv4/ip_forward", "1")
		ns.Route(s, fmt.Sprintf("10.245.%d.0/24", 1-i), fmt.Sprintf("192.0.2.1%d", 1-i))
		dir := tempDir(s)
		list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"reference","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
			"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.245.%d.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, dir, i))
		if err != nil {
			s.Fatal(err)
		}
		out[i] = &host{ns: ns, list: list, cni: libcni.NewCNIConfigWithCacheDir([]string{"/usr/lib/cni", "/opt/cni/bin"}, filepath.Join(dir, "cache"), nil)}
	}
	return out
}

// build makes every network.
func build(s *scope, plugin string) []path {
	var paths []path
	add := func(place, name string, h *host, from, to *nettest.NS, addr netip.Addr) {
		paths = append(paths, path{place: place, name: name, host: h, from: from, to: to, addr: addr})
		to.Do(func() {
			for _, cmd := range []*exec.Cmd{exec.Command("/proc/self/exe", "serve", addr.String()), exec.Command("iperf3", "-s", "-B", addr.String())} {
				if err := cmd.Start(); err != nil {
					s.Fatalf("start %s: %v", cmd.Path, err)
				}
				s.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			}
		})
	}
	x, y := nettest.NewNS(s, "bare0"), nettest.NewNS(s, "bare1")
	nettest.Connect(s, x, "eth0", []string{"10.99.0.1/24"}, y, "eth0", []string{"10.99.0.2/24"}, 1500)
	add("one node", bare, nil, x, y, netip.MustParseAddr("10.99.0.2"))

	pair := func(name string, hosts [2]*host, local bool) {
		c, _ := hosts[0].pod(s, "client")
		if local {
			near, addr := hosts[0].pod(s, "near")
			add("one node", name, hosts[0], c, near, addr)
		}
		far, addr := hosts[1].pod(s, "far")
		add("two nodes", name, nil, c, far, addr)
	}
	pair(bridge, bridged(s), true)
	pair("fairlead", fairlead(s, plugin, route.Native), true)
	pair("fairlead VXLAN", fairlead(s, plugin, route.VXLAN), false)
	return paths
}
