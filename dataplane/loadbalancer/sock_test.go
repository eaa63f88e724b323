// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/statedb"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// serveTCP answers every connection to addr with name and closes it. It listens in the calling thread's namespace.
func serveTCP(t testing.TB, addr, name string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			c.Close()
		}
	}()
	return nil
}

// serveUDP answers every datagram with name.
func serveUDP(t testing.TB, addr, name string) error {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name), from)
		}
	}()
	return nil
}

// ask connects and returns the answer and the peer the client sees.
func ask(addr string) (answer, peer string, err error) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	b, err := io.ReadAll(c)
	return string(b), c.RemoteAddr().String(), err
}

func TestSocketTCP(t *testing.T) {
	for _, f := range []struct{ family, vip, back string }{{"IPv4", "10.96.0.10", "127.0.0.%d"}, {"IPv6", "fd00:96::10", "::1"}} {
		t.Run(f.family, func(t *testing.T) {
			n := newNode(t)
			back := func(i int) string {
				if f.family == "IPv6" {
					return netip.AddrPortFrom(netip.IPv6Loopback(), uint16(8080+i)).String()
				}
				return fmt.Sprintf("127.0.0.%d:8080", 2+i)
			}
			n.put(svc("web", 80, tables.TCP, f.vip), slice("web", tables.TCP, back(0)), svc("empty", 80, tables.TCP, f.vip[:len(f.vip)-1]+"1"))
			n.start()
			defer n.halt()
			vip := netip.AddrPortFrom(netip.MustParseAddr(f.vip), 80).String()
			inNS(t, n.ns, "", func() error {
				if err := serveTCP(t, back(0), "zero"); err != nil {
					return err
				}
				answer, peer, err := ask(vip)
				if err != nil || answer != "zero" {
					return fmt.Errorf("ask %s: %q %v", vip, answer, err)
				}
				if peer != vip {
					return fmt.Errorf("getpeername says %s, want the service %s", peer, vip)
				}
				// No backend: refused at once.
				began := time.Now()
				_, _, err = ask(netip.AddrPortFrom(netip.MustParseAddr(f.vip[:len(f.vip)-1]+"1"), 80).String())
				if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > time.Second {
					return fmt.Errorf("service without backends: %v after %s, want ECONNREFUSED at once", err, time.Since(began))
				}
				// A port that the service does not have.
				_, _, err = ask(netip.AddrPortFrom(netip.MustParseAddr(f.vip), 81).String())
				if !errors.Is(err, syscall.ECONNREFUSED) {
					return fmt.Errorf("unknown port: %v, want ECONNREFUSED", err)
				}
				return nil
			})
		})
	}
}

// TestSocketMapped: an IPv6 socket that reaches an IPv4 service by its mapped address.
func TestSocketMapped(t *testing.T) {
	n := newNode(t)
	n.put(svc("web", 80, tables.TCP, "10.96.0.10"), slice("web", tables.TCP, "127.0.0.2:8080"))
	n.start()
	defer n.halt()
	inNS(t, n.ns, "", func() error {
		if err := serveTCP(t, "127.0.0.2:8080", "zero"); err != nil {
			return err
		}
		fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		sa := &syscall.SockaddrInet6{Port: 80, Addr: netip.MustParseAddr("::ffff:10.96.0.10").As16()}
		if err := syscall.Connect(fd, sa); err != nil {
			return fmt.Errorf("connect to mapped address: %w", err)
		}
		peer, err := syscall.Getpeername(fd)
		if err != nil {
			return err
		}
		if p := peer.(*syscall.SockaddrInet6); p.Port != 80 || p.Addr != sa.Addr {
			return fmt.Errorf("peer %v, want the service", p)
		}
		return nil
	})
}

// TestSocketUDP covers connected and unconnected sockets, and that an unconnected one leaves a backend that is gone.
func TestSocketUDP(t *testing.T) {
	n := newNode(t)
	n.put(svc("dns", 53, tables.UDP, "10.96.0.10", "fd00:96::10"), slice("dns", tables.UDP, "127.0.0.2:5353"), slice("dns", tables.UDP, "[::1]:5353"))
	n.start()
	defer n.halt()
	inNS(t, n.ns, "", func() error {
		for addr, name := range map[string]string{"127.0.0.2:5353": "two", "127.0.0.3:5353": "three", "[::1]:5353": "six"} {
			if err := serveUDP(t, addr, name); err != nil {
				return err
			}
		}
		for vip, want := range map[string]string{"10.96.0.10:53": "two", "[fd00:96::10]:53": "six"} {
			c, err := net.Dial("udp", vip)
			if err != nil {
				return err
			}
			defer c.Close()
			if got, err := exchange(c); err != nil || got != want {
				return fmt.Errorf("connected %s: %q %v", vip, got, err)
			}
			if c.RemoteAddr().String() != vip {
				return fmt.Errorf("peer %s, want %s", c.RemoteAddr(), vip)
			}
		}
		u, err := net.ListenPacket("udp4", "0.0.0.0:0")
		if err != nil {
			return err
		}
		defer u.Close()
		to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.96.0.10:53"))
		send := func(want string) error {
			_ = u.SetDeadline(time.Now().Add(2 * time.Second))
			if _, err := u.WriteTo([]byte("?"), to); err != nil {
				return err
			}
			buf := make([]byte, 100)
			k, from, err := u.ReadFrom(buf)
			if err != nil {
				return err
			}
			if string(buf[:k]) != want || from.String() != to.String() {
				return fmt.Errorf("unconnected: %q from %s, want %q from the service", buf[:k], from, want)
			}
			return nil
		}
		if err := send("two"); err != nil {
			return err
		}
		n.put(slice("dns", tables.UDP, "127.0.0.3:5353"))
		eventually(t, func() error { return send("three") })
		return nil
	})
}

// TestSocketUDPProbe: resolvers connect a datagram socket to an address, with a port that means nothing, to learn whether and from where it is
// reached. That works for a service's address; a datagram sent to a port that the service lacks is refused.
func TestSocketUDPProbe(t *testing.T) {
	n := newNode(t)
	n.put(svc("web", 80, tables.TCP, "10.96.0.10"), slice("web", tables.TCP, "127.0.0.2:8080"))
	n.start()
	defer n.halt()
	inNS(t, n.ns, "", func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		_, services, _ := net.ParseCIDR("10.96.0.0/16")
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: services, Src: net.IPv4(127, 0, 0, 1), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		for _, port := range []string{"80", "9"} {
			c, err := net.Dial("udp", net.JoinHostPort("10.96.0.10", port))
			if err != nil {
				return fmt.Errorf("connect a datagram socket: %w", err)
			}
			if !c.LocalAddr().(*net.UDPAddr).IP.IsLoopback() {
				return fmt.Errorf("source address %s, want that of the route", c.LocalAddr())
			}
			c.Close()
		}
		u, err := net.ListenPacket("udp4", "0.0.0.0:0")
		if err != nil {
			return err
		}
		defer u.Close()
		if _, err := u.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.96.0.10:9"))); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("a datagram to a port that no service has: %v, want ECONNREFUSED", err)
		}
		return nil
	})
}

// TestSocketUDPStale: a connected socket whose backend left fails at its next use, so that its owner opens a new one; sockets that went to the
// same address by themselves are let be.
func TestSocketUDPStale(t *testing.T) {
	n := newNode(t)
	n.put(svc("dns", 53, tables.UDP, "10.96.0.10", "fd00:96::10"), slice("dns", tables.UDP, "127.0.0.2:5353"), slice("dns", tables.UDP, "[::1]:5353"))
	n.start()
	defer n.halt()
	inNS(t, n.ns, "", func() error {
		for addr, name := range map[string]string{"127.0.0.2:5353": "two", "127.0.0.3:5353": "three", "[::1]:5353": "six", "[::1]:5354": "seven"} {
			if err := serveUDP(t, addr, name); err != nil {
				return err
			}
		}
		var stale []net.Conn
		for _, a := range []string{"10.96.0.10:53", "[fd00:96::10]:53", "127.0.0.2:5353"} {
			c, err := net.Dial("udp", a)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := exchange(c); err != nil {
				return err
			}
			stale = append(stale, c)
		}
		n.put(slice("dns", tables.UDP, "127.0.0.3:5353"), slice("dns", tables.UDP, "[::1]:5354"))
		for _, c := range stale[:2] {
			eventually(t, func() error {
				if answer, err := exchange(c); err == nil {
					return fmt.Errorf("the socket still talks to %s, which left", answer)
				}
				return nil
			})
		}
		if answer, err := exchange(stale[2]); err != nil || answer != "two" {
			return fmt.Errorf("a socket that chose the address itself: %q %v", answer, err)
		}
		for a, want := range map[string]string{"10.96.0.10:53": "three", "[fd00:96::10]:53": "seven"} {
			c, err := net.Dial("udp", a)
			if err != nil {
				return err
			}
			defer c.Close()
			if answer, err := exchange(c); err != nil || answer != want {
				return fmt.Errorf("a new socket: %q %v, want %q", answer, err, want)
			}
		}
		return nil
	})
}

func exchange(c net.Conn) (string, error) {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	k, err := c.Read(buf)
	return string(buf[:k]), err
}

// TestRestart: a new agent adopts ids and rows, open connections and counts go on, and what is gone is pruned.
func TestRestart(t *testing.T) {
	n := newNode(t)
	n.put(svc("web", 80, tables.TCP, "10.96.0.10"), slice("web", tables.TCP, "127.0.0.2:8080", "127.0.0.3:8080"), svc("old", 80, tables.TCP, "10.96.0.66"))
	n.start()
	n.halt()
	before := n.dump()
	n.start()
	n.halt()
	after := n.dump()
	if len(before) != 4 || len(after) != len(before) {
		t.Fatalf("entries: %d then %d, want 4", len(before), len(after))
	}
	for k, v := range before {
		if w := after[k]; w.Id != v.Id || w.In.Count != v.In.Count {
			t.Errorf("%s: %+v became %+v", keyString(k), v, w)
		}
	}
	n.deleteService(tables.Name{Namespace: "default", Name: "old"})
	n.start()
	defer n.halt()
	if got := n.dump(); len(got) != 2 {
		t.Errorf("after a service vanished while the agent was down: %d entries, want 2", len(got))
	}
}

// TestSocketOptOut: sockets of a pod that opted out are left alone, also after the agent restarted, and translated again once the pod is gone.
func TestSocketOptOut(t *testing.T) {
	n := newNode(t)
	n.put(svc("web", 80, tables.TCP, "10.96.0.10"), slice("web", tables.TCP, "127.0.0.2:8080"))
	var cookie uint64
	inNS(t, n.ns, "", func() error {
		if err := serveTCP(t, "127.0.0.2:8080", "web"); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	pod := &tables.LocalPod{ID: "c1/eth0", Namespace: "default", Name: "vm", NoSocketLB: cookie}
	write := func(f func(statedb.WriteTxn) error) {
		w := n.tables.DB.WriteTxn(n.tables.LocalPods)
		if err := f(w); err != nil {
			t.Fatal(err)
		}
		w.Commit()
	}
	// There is no route to the service's address: only a socket that is pointed at the backend gets there.
	translated := func(want bool) {
		t.Helper()
		eventually(t, func() (err error) {
			inNS(t, n.ns, "", func() error {
				answer, _, aerr := ask("10.96.0.10:80")
				if got := answer == "web"; got != want {
					err = fmt.Errorf("socket is translated: %v (%v), want %v", got, aerr, want)
				}
				return nil
			})
			return err
		})
	}
	write(func(w statedb.WriteTxn) error { _, _, err := n.tables.LocalPods.Insert(w, pod); return err })
	n.start()
	translated(false)
	n.halt()
	translated(false)
	n.start()
	defer n.halt()
	translated(false)
	write(func(w statedb.WriteTxn) error { _, _, err := n.tables.LocalPods.Delete(w, pod); return err })
	translated(true)
}
