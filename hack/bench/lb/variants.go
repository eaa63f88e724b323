// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// path is client - node - server with a way to reach the server.
type path struct {
	name                 string
	client, node, server *nettest.NS
	target               netip.AddrPort
	cgroup               string // the client runs in it, if set
}

var (
	clientIP = netip.MustParseAddr("192.0.2.2")
	nodeIP   = netip.MustParseAddr("198.51.100.1")
	backends = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.2:9100")}
)

// variant is a way to reach the service, and how it is set up with n services.
type variant struct {
	name   string
	ref    string  // the variant it is compared with; empty: it is a reference
	target float64 // the least ratio to ref that is aimed at; 0: none
	set    func(s *scope, p *path, n int) error
}

const (
	direct = "direct"
	// XDP on veth needs packets as a wire carries them: with complete checksums, which a network card would compute, and received by polling.
	directWire = "direct, as on a wire"
)

var variants = []variant{
	{direct, "", 0, setDirect},
	{"direct again", direct, 0, setDirect}, // the same: how far its ratio is from one is the noise
	{"iptables", direct, 0, setIPTables},
	{"nftables", direct, 0, setNFTables},
	{"fairlead socket", direct, 0.99, setSocket},
	{"fairlead tcx", direct, 1.10, setTCX},
	{directWire, "", 0, setWire},
	{"fairlead XDP", directWire, 1.10, setXDP},
}

func setDirect(_ *scope, p *path, _ int) error {
	p.target = backends[0]
	return nil
}

// newPath joins three namespaces and starts the server.
func newPath(s *scope, name string) *path {
	p := &path{name: name, client: nettest.NewNS(s, "c"), node: nettest.NewNS(s, "n"), server: nettest.NewNS(s, "s")}
	nettest.Connect(s, p.client, "eth0", []string{"192.0.2.2/24"}, p.node, "up", []string{"192.0.2.1/24"}, 1500)
	nettest.Connect(s, p.server, "eth0", []string{"198.51.100.2/24"}, p.node, "down", []string{"198.51.100.1/24"}, 1500)
	p.client.Route(s, "0.0.0.0/0", "192.0.2.1")
	p.server.Route(s, "0.0.0.0/0", "198.51.100.1")
	p.node.Sysctl(s, "net/ipv4/ip_forward", "1")
	cmd := exec.Command("/proc/self/exe", "serve", backends[0].String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		p.server.Do(func() { err = cmd.Start() })
	}
	if err != nil {
		s.Fatal("start server:", err)
	}
	s.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		s.Fatal("server:", err)
	}
	return p
}

// ask runs the client for d and returns requests per second.
func (p *path) ask(kind string, d time.Duration) (float64, error) {
	cmd := exec.Command("/proc/self/exe", "ask", kind, p.target.String(), d.String())
	if p.cgroup != "" {
		dir, err := os.Open(p.cgroup)
		if err != nil {
			return 0, err
		}
		defer dir.Close()
		cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	var out []byte
	var err error
	p.client.Do(func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", kind, err, out)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// vip is the address of service i; the one that is measured is the last.
func vip(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
}

// endpointOf returns an endpoint of service i: the server for the last, nobody for the others. Every service has two; the last has the server twice in the
// rules of the references, which is the same work.
func endpointOf(i, n int) string {
	if i == n {
		return backends[0].String()
	}
	return fmt.Sprintf("10.%d.%d.%d:9100", 128+i>>16, byte(i>>8), byte(i))
}

func pipe(p *path, rules []byte, command string, args ...string) error {
	cmd := exec.Command(command, args...)
	cmd.Stdin = bytes.NewReader(rules)
	var out []byte
	var err error
	p.node.Do(func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		return fmt.Errorf("%s: %w: %.300s", command, err, out)
	}
	return nil
}

// setIPTables writes what kube-proxy's iptables mode writes: one chain of all services, walked from the top, then a chain per service and per endpoint.
func setIPTables(_ *scope, p *path, n int) error {
	var b bytes.Buffer
	b.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, ":KUBE-SVC-%d - [0:0]\n:KUBE-SEP-%d-0 - [0:0]\n:KUBE-SEP-%d-1 - [0:0]\n", i, i, i)
	}
	b.WriteString("-A PREROUTING -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n" +
		"-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "-A KUBE-SERVICES -d %s/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-%d\n", vip(i), i)
		fmt.Fprintf(&b, "-A KUBE-SVC-%d -m statistic --mode random --probability 0.5 -j KUBE-SEP-%d-0\n-A KUBE-SVC-%d -j KUBE-SEP-%d-1\n", i, i, i, i)
		for e := range 2 {
			host, _, _ := strings.Cut(endpointOf(i, n), ":")
			fmt.Fprintf(&b, "-A KUBE-SEP-%d-%d -s %s/32 -j KUBE-MARK-MASQ\n-A KUBE-SEP-%d-%d -p tcp -m tcp -j DNAT --to-destination %s\n", i, e, host, i, e, endpointOf(i, n))
		}
	}
	b.WriteString("COMMIT\n")
	p.target = netip.AddrPortFrom(vip(n), 80)
	return pipe(p, b.Bytes(), "iptables-restore", "--noflush")
}

// setNFTables writes what kube-proxy's nftables mode writes: a verdict map from address, protocol and port to the service's chain.
func setNFTables(_ *scope, p *path, n int) error {
	var b bytes.Buffer
	b.WriteString("table ip kube-proxy {\n")
	for i := 1; i <= n; i++ {
		for e := range 2 {
			host, _, _ := strings.Cut(endpointOf(i, n), ":")
			fmt.Fprintf(&b, "chain endpoint-%d-%d { ip saddr %s jump mark-for-masquerade\n meta l4proto tcp dnat to %s\n }\n", i, e, host, endpointOf(i, n))
		}
		fmt.Fprintf(&b, "chain service-%d { numgen random mod 2 vmap { 0 : goto endpoint-%d-0, 1 : goto endpoint-%d-1 }\n }\n", i, i, i)
	}
	b.WriteString("chain mark-for-masquerade { meta mark set meta mark or 0x4000\n }\nmap service-ips { type ipv4_addr . inet_proto . inet_service : verdict\n elements = {\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "%s . tcp . 80 : goto service-%d,\n", vip(i), i)
	}
	b.WriteString("}\n}\nchain services { ip daddr . meta l4proto . th dport vmap @service-ips\n }\n" +
		"chain nat-prerouting { type nat hook prerouting priority dstnat; jump services\n }\n" +
		"chain nat-postrouting { type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0 return\n meta mark set meta mark xor 0x4000\n masquerade fully-random\n }\n}\n")
	p.target = netip.AddrPortFrom(vip(n), 80)
	return pipe(p, b.Bytes(), "nft", "-f", "-")
}

// fairlead runs our load balancer in a namespace with n services and returns its loader. tune may change the configuration.
func fairlead(s *scope, in *nettest.NS, n int, onNode bool, tune func(*loadbalancer.Config)) (*loader.Loader, error) {
	tb, err := tables.New()
	if err != nil {
		return nil, err
	}
	fill(tb, n, onNode)
	return start(s, in, tb, tune)
}

// start runs our load balancer over tb and waits until it has programmed what is there.
func start(s *scope, in *nettest.NS, tb *tables.Tables, tune func(*loadbalancer.Config)) (*loader.Loader, error) {
	dir, err := os.MkdirTemp("", "bench-lb-")
	if err != nil {
		return nil, err
	}
	pins := filepath.Join(dir, "bpf")
	l, err := loader.Open(loader.Config{PinDir: pins})
	if err != nil {
		return nil, err
	}
	s.Cleanup(func() {
		_ = l.Uninstall()
		_ = unix.Unmount(pins, unix.MNT_DETACH)
		_ = os.RemoveAll(dir)
	})
	synced := make(chan struct{})
	cfg := loadbalancer.Config{Tables: tb, Loader: l, NodeName: "n1", NodeIPs: []netip.Addr{nodeIP}, OnSynced: func() { close(synced) }}
	tune(&cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go in.Do(func() { done <- loadbalancer.Run(ctx, cfg) })
	s.Cleanup(func() {
		cancel()
		<-done
	})
	select {
	case <-synced:
		return l, nil
	case err := <-done:
		done <- err
		return nil, err
	case <-time.After(time.Minute):
		return nil, errors.New("the load balancer did not get ready")
	}
}

func fill(tb *tables.Tables, n int, onNode bool) {
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	for i := 1; i <= n; i++ {
		name := fmt.Sprintf("s%d", i)
		svc := &tables.Service{
			Name: tables.Name{Namespace: "bench", Name: name}, ClusterIPs: []netip.Addr{vip(i)}, Ports: []tables.ServicePort{{Protocol: tables.TCP, Port: 80}},
		}
		if i == n {
			svc.Type, svc.Ports[0].NodePort = tables.NodePort, 30080
		}
		ap := netip.MustParseAddrPort(endpointOf(i, n))
		ep := tables.Endpoint{Addr: ap.Addr(), Conditions: tables.Ready | tables.Serving, NodeName: "n2"}
		if onNode {
			ep.NodeName = "n1"
		}
		_, _, _ = tb.Services.Insert(w, svc)
		_, _, _ = tb.EndpointSlices.Insert(w, &tables.EndpointSlice{
			Name: tables.Name{Namespace: "bench", Name: name + "-1"}, Service: name,
			Ports: []tables.EndpointPort{{Protocol: tables.TCP, Port: ap.Port()}}, Endpoints: []tables.Endpoint{ep},
		})
	}
	w.Commit()
}

func setSocket(s *scope, p *path, n int) error {
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root = "/sys/fs/cgroup/unified"
	}
	dir, err := os.MkdirTemp(root, "bench-lb-")
	if err != nil {
		return err
	}
	s.Cleanup(func() { _ = os.Remove(dir) })
	p.cgroup, p.target = dir, netip.AddrPortFrom(vip(n), 80)
	_, err = fairlead(s, p.client, n, false, func(c *loadbalancer.Config) { c.CgroupRoot = dir })
	return err
}

// setTCX makes client and server two pods of the node: the pod network's programs are on the host sides of their veth pairs.
func setTCX(s *scope, p *path, n int) error {
	p.target = netip.AddrPortFrom(vip(n), 80)
	l, err := fairlead(s, p.node, n, true, func(*loadbalancer.Config) {})
	if err != nil {
		return err
	}
	spec, err := loader.LoadPod()
	if err != nil {
		return err
	}
	coll, err := l.Load(spec, loader.NodeConstants(loader.NodeFacts{NodeIPs: []netip.Addr{nodeIP}}))
	if err != nil {
		return err
	}
	s.Cleanup(coll.Close)
	p.node.Do(func() {
		for _, pod := range []struct {
			dev  string
			ns   *nettest.NS
			addr netip.Addr
		}{{"up", p.client, clientIP}, {"down", p.server, backends[0].Addr()}} {
			var host, peer netlink.Link
			if host, err = netlink.LinkByName(pod.dev); err != nil {
				return
			}
			if peer, err = pod.ns.Netlink(s).LinkByName("eth0"); err != nil {
				return
			}
			ep := loader.NetEndpoint{
				Ifindex: uint32(host.Attrs().Index), Mac: [6]byte(peer.Attrs().HardwareAddr), HostMac: [6]byte(host.Attrs().HardwareAddr),
			}
			if err = coll.Maps["endpoints"].Put(loader.Addr(pod.addr.As16()), ep); err != nil {
				return
			}
			if err = l.AttachTCX(coll.Programs["from_pod"], host.Attrs().Index, ebpf.AttachTCXIngress, "from_pod-"+pod.dev); err != nil {
				return
			}
			if err = l.AttachTCX(coll.Programs["to_pod"], host.Attrs().Index, ebpf.AttachTCXEgress, "to_pod-"+pod.dev); err != nil {
				return
			}
		}
	})
	return err
}

// setWire makes the links as those between hosts: complete checksums, and GRO so that veth polls and receives XDP frames.
func setWire(_ *scope, p *path, _ int) error {
	p.target = backends[0]
	for _, d := range []struct {
		ns  *nettest.NS
		dev string
	}{{p.client, "eth0"}, {p.server, "eth0"}, {p.node, "up"}, {p.node, "down"}} {
		var err error
		d.ns.Do(func() { err = wireLike(d.dev) })
		if err != nil {
			return fmt.Errorf("offloads of %s: %w", d.dev, err)
		}
	}
	return nil
}

// setXDP makes the node's devices uplinks with XDP.
func setXDP(s *scope, p *path, n int) error {
	if err := setWire(s, p, n); err != nil {
		return err
	}
	p.target = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), 30080)
	_, err := fairlead(s, p.node, n, false, func(c *loadbalancer.Config) { c.Uplinks, c.XDP = []string{"up", "down"}, "xdp" })
	return err
}

func wireLike(dev string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, v := range []struct{ cmd, data uint32 }{{0x17, 0}, {0x2c, 1}} { // ETHTOOL_STXCSUM, ETHTOOL_SGRO
		var ifr struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(ifr.name[:], dev)
		ifr.data = unsafe.Pointer(&v)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
			return errno
		}
	}
	return nil
}
