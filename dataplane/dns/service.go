// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Sockets on the cluster DNS Service's own address. Nearly all clients' sockets are pointed at the node's address when they connect or send; packets of the others reach the node under the
// Service's address, and are answered under it: nobody translates, so nobody has to remember anything for the answer's way back.

// ServicePort is the cluster DNS Service's.
const ServicePort = 53

// OpenServiceSockets opens the UDP sockets and the TCP socket for the Service's address addr, which no device has. The caller closes them.
func OpenServiceSockets(addr netip.Addr) ([]*os.File, error) {
	at := netip.AddrPortFrom(addr, ServicePort)
	files, err := openUDP(at, func(c syscallConn) error { return errors.Join(prepare(c), freebind(c, addr)) })
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscallConn) error { return freebind(c, addr) }}
	l, err := lc.Listen(context.Background(), "tcp", at.String())
	if err == nil {
		var f *os.File
		if f, err = l.(*net.TCPListener).File(); err == nil {
			files = append(files, f)
		}
		l.Close()
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("open TCP socket for DNS on %s: %w", at, err)
	}
	return files, nil
}

// freebind lets a socket be bound to an address that no device has, beside another server's.
func freebind(c syscallConn, addr netip.Addr) error {
	var err error
	control := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return
		}
		if addr.Is4() {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		}
	})
	return errors.Join(control, err)
}

// SocketAddress says what a socket is bound to: "udp" or "tcp", and where.
func SocketAddress(f *os.File) (network string, at netip.AddrPort, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return "", at, err
	}
	control := raw.Control(func(fd uintptr) {
		var kind int
		if kind, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			return
		}
		network = map[int]string{unix.SOCK_DGRAM: "udp", unix.SOCK_STREAM: "tcp"}[kind]
		var local unix.Sockaddr
		if local, err = unix.Getsockname(int(fd)); err == nil {
			at = addrPort(local)
		}
	})
	if err = errors.Join(control, err); err == nil && !at.IsValid() {
		err = errors.New("bound to no IP address")
	}
	if err != nil {
		return "", at, fmt.Errorf("DNS socket: %w", err)
	}
	return network, at, nil
}

// frontStream is a listening TCP socket of a front.
type frontStream struct {
	net.Listener
	to     atomic.Pointer[dnsserver.Server]
	server *dns.Server // set when connections are taken
}

func (f *front) addStream(file *os.File) error {
	l, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("DNS socket: %w", err)
	}
	f.streams = append(f.streams, &frontStream{Listener: l})
	return nil
}

// attach hands the questions of all connections to s, by the time limits of the first s.
func (c *frontStream) attach(s *dnsserver.Server) {
	if c.to.Swap(s) != nil {
		return
	}
	c.server = &dns.Server{
		Listener: c, Net: "tcp", MaxTCPQueries: s.MaxTCPQueries, ReadTimeout: s.ReadTimeout, WriteTimeout: s.WriteTimeout,
		IdleTimeout: func() time.Duration { return c.to.Load().IdleTimeout },
		Handler:     dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) { handTo(c.to.Load(), w, r) }),
	}
	go func() { _ = c.server.ActivateAndServe() }() // until stop
}

// stop takes no more connections and waits for the answers to what was asked.
func (c *frontStream) stop() {
	if c.server == nil {
		c.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	if c.server.ShutdownContext(ctx) != nil {
		c.Close() // it had not begun
	}
}
