// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/route"
)

// drops returns the node's drop counters by reason; "none" counts what the fast path forwarded.
func (n *node) drops() map[string]uint64 {
	n.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(loader.MapDir(filepath.Join(n.cfg.Dir, "bpf")), "drops"), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	names, err := loader.DropReasons()
	if err != nil {
		n.t.Fatal(err)
	}
	out := map[string]uint64{}
	for i, name := range names {
		var per []loader.BPFDropCounter
		if err := m.Lookup(uint32(i), &per); err != nil {
			continue
		}
		for _, c := range per {
			out[name] += c.Packets
		}
	}
	return out
}

func ping(t testing.TB, from *nettest.NS, to netip.Addr, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.(*testing.T).Context(), 20*time.Second)
	defer cancel()
	var out []byte
	var err error
	cmd := exec.CommandContext(ctx, "ping", append([]string{"-n", "-c", "3", "-i", "0.05", "-W", "2"}, append(args, to.String())...)...)
	from.Do(func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

func TestPing(t *testing.T) {
	for name, shared := range map[string]bool{"native": true, "VXLAN": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, route.Auto, shared)
			c.start()
			a, b, far := c.nodes[0].pod("a"), c.nodes[0].pod("b"), c.nodes[1].pod("far")
			for family, is4 := range families {
				for what, to := range map[string]netip.Addr{"pod on the node": b.ip[is4], "pod on the other node": far.ip[is4], "outside": c.outIP[is4]} {
					for _, size := range []string{"56", "8000"} { // the second in fragments
						if out, err := ping(t, a.ns, to, "-s", size); err != nil {
							t.Errorf("%s, %s, %s bytes: %v\n%s", family, what, size, err, out)
						}
					}
				}
			}
			// A pod's address that nobody has is told so, and does not loop.
			if out, _ := ping(t, a.ns, netip.MustParseAddr("10.244.0.222")); !strings.Contains(out, "Destination Host Unreachable") {
				t.Errorf("absent pod of this node:\n%s", out)
			}
			if out, _ := ping(t, a.ns, netip.MustParseAddr("10.244.1.222")); !strings.Contains(out, "Unreachable") {
				t.Errorf("absent pod of the other node:\n%s", out)
			}
			// Hop limits run out like at any router.
			if out, _ := ping(t, a.ns, far.ip[true], "-t", "1"); !strings.Contains(out, "Time to live exceeded") {
				t.Errorf("hop limit of 1 to the other node:\n%s", out)
			}
			if out, _ := ping(t, a.ns, c.outIP[true], "-t", "1"); !strings.Contains(out, "Time to live exceeded") {
				t.Errorf("hop limit of 1 to the outside:\n%s", out)
			}
		})
	}
}

// TestICMPErrorsThroughMasquerade asks a closed port outside: the refusal comes back as ICMP and must find the pod's socket.
func TestICMPErrorsThroughMasquerade(t *testing.T) {
	c := newCluster(t, route.Auto, true)
	c.start()
	a := c.nodes[0].pod("a")
	for family, is4 := range families {
		var conn net.Conn
		var err error
		a.ns.Do(func() { conn, err = net.Dial("udp", netip.AddrPortFrom(c.outIP[is4], 9).String()) })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		eventually(t, family+": connection refused reaches the pod", func() error {
			conn.Write([]byte("x"))
			conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, err := conn.Read(make([]byte, 10))
			if errors.Is(err, unix.ECONNREFUSED) {
				return nil
			}
			return fmt.Errorf("got %v", err)
		})
	}
}

// TestPathMTU has a narrow link behind the nodes' router. A pod's connection to the outside must learn of it through the masquerade, and one to a pod behind the
// tunnel must know the tunnel's overhead.
func TestPathMTU(t *testing.T) {
	c := newCluster(t, route.Auto, false)
	beyond := nettest.NewNS(t, "beyond")
	nettest.Connect(t, c.outside, "narrow", []string{"203.0.113.1/24", "2001:db8:99::1/64"}, beyond, "eth0", []string{"203.0.113.9/24", "2001:db8:99::9/64"}, 1300)
	beyond.Route(t, "0.0.0.0/0", "203.0.113.1")
	beyond.Route(t, "::/0", "2001:db8:99::1")
	c.start()
	a, far := c.nodes[0].pod("a"), c.nodes[1].pod("far")
	for family, is4 := range families {
		out := map[bool]netip.Addr{true: netip.MustParseAddr("203.0.113.9"), false: netip.MustParseAddr("2001:db8:99::9")}[is4]
		serve(t, beyond, out)
		serve(t, far.ns, far.ip[is4])
		eventually(t, family+": through a narrow link outside", func() error { // retried: neighbours, and the router's own addresses, take a second
			_, err := ask(a.ns, "tcp", out, 300000)
			return err
		})
		if _, err := ask(a.ns, "tcp", far.ip[is4], 300000); err != nil {
			t.Errorf("%s through the tunnel: %v", family, err)
		}
		// A datagram of the full interface MTU with fragmentation forbidden: the kernel must learn and say so.
		var conn net.Conn
		var err error
		a.ns.Do(func() { conn, err = net.Dial("udp", netip.AddrPortFrom(far.ip[is4], 7).String()) })
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := conn.(*net.UDPConn).SyscallConn()
		raw.Control(func(fd uintptr) {
			if is4 {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			} else {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
			}
		})
		eventually(t, family+": the sender is told of the tunnel's MTU", func() error {
			_, err := conn.Write(make([]byte, 1440))
			if errors.Is(err, unix.EMSGSIZE) {
				return nil
			}
			return fmt.Errorf("write: %v", err)
		})
		conn.Close()
	}
}

// TestFastPath makes sure that pods' packets really take it: counters, not hopes.
func TestFastPath(t *testing.T) {
	c := newCluster(t, route.Auto, true)
	c.start()
	a, b, far := c.nodes[0].pod("a"), c.nodes[0].pod("b"), c.nodes[1].pod("far")
	for _, is4 := range families {
		serve(t, b.ns, b.ip[is4])
		serve(t, far.ns, far.ip[is4])
		for what, to := range map[string]netip.Addr{"same node": b.ip[is4], "other node": far.ip[is4]} {
			before := c.nodes[0].drops()
			if _, err := ask(a.ns, "tcp", to, 20000); err != nil {
				t.Fatal(what, err)
			}
			after := c.nodes[0].drops()
			if after["none"] < before["none"]+10 {
				t.Errorf("%s: the fast path forwarded %d packets of a 20 kB echo", what, after["none"]-before["none"])
			}
			for _, reason := range []string{"none", "tunnel"} { // tunnel: what the kernel multicasts on the new overlay device by itself; these nodes share a link
				delete(before, reason)
				delete(after, reason)
			}
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("%s: drops %v, before %v", what, after, before)
			}
		}
	}
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	c := newCluster(t, route.Auto, true)
	c.start()
	a, b := c.nodes[0].pod("a"), c.nodes[0].pod("b")
	got := make(chan struct{}, 1)
	var pc net.PacketConn
	var err error
	b.ns.Do(func() { pc, err = net.ListenPacket("udp", netip.AddrPortFrom(b.ip[true], 7).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		if _, _, err := pc.ReadFrom(make([]byte, 10)); err == nil {
			got <- struct{}{}
		}
	}()
	before := c.nodes[0].drops()["spoofed"]
	a.ns.Do(func() {
		fd, serr := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err = serr; err != nil {
			return
		}
		defer unix.Close(fd)
		for _, src := range []string{"10.244.0.200", "192.0.2.10", "8.8.8.8"} {
			p := make([]byte, 29)
			p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
			binary.BigEndian.PutUint16(p[2:], 29)
			copy(p[12:], netip.MustParseAddr(src).AsSlice())
			copy(p[16:], b.ip[true].AsSlice())
			binary.BigEndian.PutUint16(p[20:], 999)
			binary.BigEndian.PutUint16(p[22:], 7)
			binary.BigEndian.PutUint16(p[24:], 9)
			err = errors.Join(err, unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: b.ip[true].As4()}))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "three drops are counted", func() error {
		if d := c.nodes[0].drops()["spoofed"] - before; d != 3 {
			return fmt.Errorf("%d drops", d)
		}
		return nil
	})
	select {
	case <-got:
		t.Error("a spoofed packet arrived")
	default:
	}
}

// TestInboundFromOutside lets the outside, which has a route to the pods, open a connection: the answers must keep the pod's address.
func TestInboundFromOutside(t *testing.T) {
	c := newCluster(t, route.Native, true)
	c.outside.Route(t, "10.244.0.0/24", "192.0.2.10")
	c.outside.Route(t, "fd00:10:244::/64", "2001:db8::10")
	c.start()
	a := c.nodes[0].pod("a")
	for family, is4 := range families {
		serve(t, a.ns, a.ip[is4])
		for _, network := range []string{"tcp", "udp"} {
			if peer, err := ask(c.outside, network, a.ip[is4], 20000); err != nil || peer != c.outIP[is4].String() {
				t.Errorf("%s %s: saw %s, %v", family, network, peer, err)
			}
		}
	}
}

// iperfServer starts an iperf3 server for one client and returns when it listens.
func iperfServer(t testing.TB, ctx context.Context, ns *nettest.NS, at netip.Addr) *exec.Cmd {
	t.Helper()
	server := exec.CommandContext(ctx, "iperf3", "-s", "-1", "--forceflush", "-B", at.String())
	out, err := server.StdoutPipe()
	if err == nil {
		ns.Do(func() { err = server.Start() })
	}
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "Server listening") {
			go io.Copy(io.Discard, out) // ends with the server
			return server
		}
	}
	t.Fatalf("iperf3 ended before it listened on %s: %v", at, server.Wait())
	return nil
}

// TestAgentKilledUnderTraffic kills and restarts both agents while iperf3 runs and connections are made over nodes and to the outside: not one may fail.
func TestAgentKilledUnderTraffic(t *testing.T) {
	for name, setup := range map[string]struct {
		mode   route.Mode
		shared bool
	}{"nodes on one link, native": {route.Auto, true}, "nodes on one link, VXLAN": {route.VXLAN, true}, "nodes behind a router, VXLAN": {route.Auto, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, setup.mode, setup.shared)
			c.start()
			a, far := c.nodes[0].pod("a"), c.nodes[1].pod("far")
			for _, is4 := range families {
				serve(t, far.ns, far.ip[is4])
				serve(t, c.outside, c.outIP[is4])
				for _, to := range []netip.Addr{far.ip[is4], c.outIP[is4]} {
					eventually(t, "first connection", func() error { _, err := ask(a.ns, "tcp", to, 10); return err })
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			server := iperfServer(t, ctx, far.ns, far.ip[true])
			client := exec.CommandContext(ctx, "iperf3", "-c", far.ip[true].String(), "-t", "5", "-J", "-b", "200M")
			var out bytes.Buffer
			client.Stdout = &out
			var err error
			a.ns.Do(func() { err = client.Start() })
			if err != nil {
				t.Fatal(err)
			}
			var stop atomic.Bool
			var made atomic.Int64
			failed := make(chan error, 100)
			done := make(chan struct{}, 4)
			for _, is4 := range families {
				for _, to := range []netip.Addr{far.ip[is4], c.outIP[is4]} {
					go func() {
						defer func() { done <- struct{}{} }()
						for !stop.Load() {
							if _, err := ask(a.ns, "tcp", to, 100); err != nil {
								select {
								case failed <- fmt.Errorf("to %s: %w", to, err):
								default:
								}
							}
							made.Add(1)
						}
					}()
				}
			}
			for range 3 {
				for _, n := range c.nodes {
					n.kill()
				}
				time.Sleep(300 * time.Millisecond) // a while without any agent
				c.start()
			}
			err = client.Wait()
			stop.Store(true)
			for range 4 {
				<-done
			}
			server.Wait()
			var r struct {
				Error string
				End   struct {
					Received struct {
						Bytes float64
					} `json:"sum_received"`
					Sent struct {
						Retransmits int
					} `json:"sum_sent"`
				}
			}
			if jerr := json.Unmarshal(out.Bytes(), &r); jerr != nil || err != nil || r.Error != "" {
				t.Errorf("iperf3: %v %v %s", err, jerr, r.Error)
			}
			close(failed)
			n := 0
			for err := range failed {
				if n++; n <= 5 {
					t.Error("connect loop:", err)
				}
			}
			t.Logf("%d connections, %d failed; iperf3 moved %.0f MB with %d retransmits; both agents were killed three times", made.Load(), n, r.End.Received.Bytes/1e6, r.End.Sent.Retransmits)
		})
	}
}

// TestBandwidth limits a pod to 40 Mbit/s either way and measures.
func TestBandwidth(t *testing.T) {
	c := newCluster(t, route.Auto, true)
	c.start()
	a := c.nodes[0]
	free := a.pod("free")
	ns := nettest.NewNS(t, "pod")
	rt := a.runtimeConf("limited", ns)
	rt.CapabilityArgs = map[string]any{"bandwidth": map[string]int{"ingressRate": 40000000, "ingressBurst": 1 << 32, "egressRate": 40000000, "egressBurst": 1 << 32} /* as containerd asks */}
	res, err := a.add(rt, "1.1.0")
	if err != nil {
		t.Fatal(err)
	}
	ip, _ := netip.AddrFromSlice(res.IPs[0].Address.IP)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for what, reverse := range map[string][]string{"towards the pod": nil, "from the pod": {"-R"}} {
		server := iperfServer(t, ctx, ns, ip.Unmap())
		var r struct {
			Error string
			End   struct {
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			}
		}
		client := exec.CommandContext(ctx, "iperf3", append([]string{"-c", ip.Unmap().String(), "-t", "4", "-O", "2", "-J"}, reverse...)...)
		var out []byte
		var err error
		free.ns.Do(func() { out, err = client.Output() })
		if jerr := json.Unmarshal(out, &r); err != nil || jerr != nil || r.Error != "" {
			t.Fatalf("iperf3: %v %v %s\n%s", err, jerr, r.Error, out)
		}
		server.Process.Kill()
		server.Wait()
		mbit := r.End.Received.Rate / 1e6
		t.Logf("%s: %.1f Mbit/s of 40", what, mbit)
		if mbit > 44 || mbit < 16 {
			t.Errorf("%s: %.1f Mbit/s under a limit of 40", what, mbit)
		}
	}
}
