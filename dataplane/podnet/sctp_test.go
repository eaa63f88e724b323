// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/route"
)

// sctpSocket makes a socket of one association (RFC 9260, one-to-one style) that gives up after ten seconds.
func sctpSocket(is4 bool) (int, error) {
	family := unix.AF_INET6
	if is4 {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, err
	}
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: 10}); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

// sctpEcho answers one association on addr's port 7 with what it gets.
func sctpEcho(t *testing.T, ns *nettest.NS, addr netip.Addr) {
	t.Helper()
	var listener int
	var err error
	ns.Do(func() {
		if listener, err = sctpSocket(addr.Is4()); err != nil {
			return
		}
		if err = unix.Bind(listener, sockaddr(addr, 7)); err == nil {
			err = unix.Listen(listener, 8)
		}
	})
	if err != nil {
		t.Fatalf("listen for SCTP on %s: %v", addr, err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { <-done }) // accept has a time limit
	go func() {
		defer close(done)
		defer unix.Close(listener)
		conn, _, err := unix.Accept(listener)
		if err != nil {
			return // the client says what failed
		}
		defer unix.Close(conn)
		for buffer := make([]byte, 1<<16); ; {
			n, err := unix.Read(conn, buffer)
			if n <= 0 || err != nil {
				return
			}
			if _, err := unix.Write(conn, buffer[:n]); err != nil {
				return
			}
		}
	}()
}

// sctpAsk sends a message of 1000 bytes to addr's port 7 and wants it back.
func sctpAsk(ns *nettest.NS, addr netip.Addr) (err error) {
	ns.Do(func() {
		var fd int
		if fd, err = sctpSocket(addr.Is4()); err != nil {
			return
		}
		defer unix.Close(fd)
		if err = unix.Connect(fd, sockaddr(addr, 7)); err != nil {
			return
		}
		if _, err = unix.Write(fd, make([]byte, 1000)); err != nil {
			return
		}
		var n int
		if n, err = unix.Read(fd, make([]byte, 2000)); err == nil && n != 1000 {
			err = errors.New("another answer than what was sent")
		}
	})
	return err
}

// TestSCTP makes associations between pods of one node, across nodes, and to the outside. Kernels without SCTP are known by their sockets.
func TestSCTP(t *testing.T) {
	if fd, err := sctpSocket(true); errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		t.Skip("this kernel has no SCTP; Debian's, under qemu, does: make test-vm")
	} else if err != nil {
		t.Fatal(err)
	} else {
		unix.Close(fd)
	}
	for name, mode := range map[string]route.Mode{"native": route.Auto, "VXLAN": route.VXLAN} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, mode, true)
			c.start()
			a, b, far := c.nodes[0].pod("a"), c.nodes[0].pod("b"), c.nodes[1].pod("far")
			for family, is4 := range families {
				for what, to := range map[string]struct {
					ns *nettest.NS
					ip netip.Addr
				}{"pod on one node": {b.ns, b.ip[is4]}, "pod across nodes": {far.ns, far.ip[is4]}, "the world": {c.outside, c.outIP[is4]}} {
					sctpEcho(t, to.ns, to.ip)
					if err := sctpAsk(a.ns, to.ip); err != nil {
						t.Errorf("%s to %s: %v", family, what, err)
					}
				}
			}
		})
	}
}
