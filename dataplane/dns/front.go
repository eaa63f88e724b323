// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// front is the UDP sockets that stand before CoreDNS's own: they answer common questions themselves (fastpath.go) and hand all others to CoreDNS in this process, which cannot
// tell the difference. They belong to the same SO_REUSEPORT group as CoreDNS's socket and can outlive this process: another holds them too, so that questions wait for the
// next server instead of being refused.
//
// CoreDNS's own socket for the same address is taken out of the group by connecting it to nowhere (a connected socket gets its peer's packets only). Until that has happened, and if
// it ever fails, either socket answers what it gets: only speed differs.
type front struct {
	logger klog.Logger

	mu      sync.Mutex
	conns   map[netip.AddrPort][]*frontConn
	streams []*frontStream
	service []netip.AddrPort // where no server of the Corefile listens, see OpenServiceSockets
	held    bool             // the sockets were handed to this process and are served whatever the Corefile says
}

// served is what a front socket hands questions to; replaced as a whole when a Corefile is loaded.
type served struct {
	server *dnsserver.Server
	fast   *fastPath // nil: every question goes to CoreDNS
}

// OpenSockets opens the UDP sockets for addr: as many as cores can use. The caller closes them.
func OpenSockets(addr netip.AddrPort) ([]*os.File, error) { return openUDP(addr, prepare) }

func openUDP(addr netip.AddrPort, prepare func(syscallConn) error) ([]*os.File, error) {
	var files []*os.File
	lc := net.ListenConfig{Control: func(_, _ string, c syscallConn) error { return prepare(c) }}
	for range min(runtime.GOMAXPROCS(0), 8) {
		pc, err := lc.ListenPacket(context.Background(), "udp", addr.String())
		if err == nil {
			var f *os.File
			if f, err = pc.(*net.UDPConn).File(); err == nil {
				files = append(files, f)
			}
			pc.Close()
		}
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("open UDP socket for DNS on %s: %w", addr, err)
		}
	}
	return files, nil
}

// receiveBuffer has room for the questions of a second or so while a server is started again.
const receiveBuffer = 8 << 20

func prepare(c syscallConn) error {
	var err error
	control := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // as large as this process may
		}
	})
	return errors.Join(control, err)
}

// newFront serves the sockets in files, none to open its own where the Corefile's servers listen. Those bound to an address in service are served by whatever server has our plugin.
func newFront(logger klog.Logger, files []*os.File, service []netip.AddrPort) (*front, error) {
	f := &front{logger: logger, conns: map[netip.AddrPort][]*frontConn{}, service: service, held: len(files) > 0}
	for _, file := range files {
		if err := f.add(file); err != nil {
			f.close()
			return nil, err
		}
	}
	return f, nil
}

// add makes file one of the front's sockets. Nothing is read from it before attach.
func (f *front) add(file *os.File) error {
	if network, _, err := SocketAddress(file); err != nil {
		return err
	} else if network == "tcp" {
		return f.addStream(file)
	}
	pc, err := net.FilePacketConn(file)
	if err != nil {
		return fmt.Errorf("DNS socket: %w", err)
	}
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return fmt.Errorf("DNS socket: %s is no UDP socket", pc.LocalAddr())
	}
	c, err := newFrontConn(udp)
	if err != nil {
		udp.Close()
		return err
	}
	at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	f.conns[at] = append(f.conns[at], c)
	return nil
}

// attach makes the front's sockets for s's address hand their questions to s, and opens them when there are none.
func (f *front) attach(s *dnsserver.Server, fast *fastPath) {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(s.Addr, "dns://"))
	if err != nil {
		return // CoreDNS listens there by itself
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.streams {
		c.attach(s)
	}
	for _, at := range append(addressesOf(host, port), f.service...) {
		if len(f.conns[at]) == 0 {
			if f.held || fast == nil {
				continue
			}
			files, err := OpenSockets(at)
			if err != nil {
				f.logger.Error(err, "No fast answers on this address", "address", at)
				continue
			}
			for _, file := range files {
				if err := f.add(file); err != nil {
					f.logger.Error(err, "No fast answers on this socket", "address", at)
				}
				file.Close()
			}
		}
		for _, c := range f.conns[at] {
			c.to.Store(&served{s, fast})
			if c.server == nil {
				if err := c.serve(); err != nil {
					f.logger.Error(err, "DNS socket is not read", "address", at)
				}
			}
		}
		if err := yieldTo(at, f.conns[at]); err != nil {
			f.logger.Error(err, "CoreDNS's own socket goes on taking a part of the questions", "address", at)
		}
	}
}

// keep closes the sockets of addresses that no server listens on any more.
func (f *front) keep(servers []net.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held {
		return
	}
	for at, conns := range f.conns {
		kept := false
		for _, s := range servers {
			u, ok := s.(*net.UDPAddr)
			kept = kept || ok && u.Port == int(at.Port()) && (u.IP.IsUnspecified() || u.AddrPort().Addr().Unmap() == at.Addr())
		}
		if !kept {
			for _, c := range conns {
				c.stop()
			}
			delete(f.conns, at)
		}
	}
}

func (f *front) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range f.streams {
		wg.Go(c.stop)
	}
	for _, conns := range f.conns {
		for _, c := range conns {
			wg.Go(c.stop)
		}
	}
	wg.Wait()
}

// addressesOf returns where a server on host listens: host, or every address of this machine. (A socket bound to an address is preferred by the kernel to one bound to all.)
func addressesOf(host, port string) []netip.AddrPort {
	p, err := netip.ParseAddrPort("[::]:" + port)
	if err != nil {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), p.Port())}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil || len(addrs) > maxAddresses {
		return nil
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && !ip.IsLinkLocalUnicast() && (host != "0.0.0.0" || ip.Is4()) {
			out = append(out, netip.AddrPortFrom(ip, p.Port()))
		}
	}
	return out
}

// maxAddresses bounds the sockets of a server that listens on all addresses; beyond, CoreDNS's own socket answers alone.
const maxAddresses = 16

// yieldTo connects every UDP socket of this process that is bound to at, but ours, to nowhere. CoreDNS does not give its sockets out, so they are looked for among the process's
// descriptors.
func yieldTo(at netip.AddrPort, ours []*frontConn) error {
	mine := map[uint64]bool{}
	for _, c := range ours {
		mine[c.inode] = true
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			continue
		}
		if err := yield(fd, at, mine); err != nil {
			return err
		}
	}
	return nil
}

func yield(fd int, at netip.AddrPort, mine map[uint64]bool) error {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // what it refers to cannot change any more
	if err != nil {
		return nil // closed meanwhile
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if unix.Fstat(fd, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFSOCK || mine[stat.Ino] {
		return nil
	}
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_DGRAM {
		return nil
	}
	local, err := unix.Getsockname(fd)
	if err != nil || addrPort(local) != at {
		return nil
	}
	if _, err := unix.Getpeername(fd); err == nil {
		return nil // done before
	}
	switch s := local.(type) {
	case *unix.SockaddrInet4:
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: s.Addr, Port: discard})
	case *unix.SockaddrInet6:
		err = unix.Connect(fd, &unix.SockaddrInet6{Addr: s.Addr, Port: discard, ZoneId: s.ZoneId})
	}
	if err != nil {
		return fmt.Errorf("connect CoreDNS's socket %s to nowhere: %w", at, err)
	}
	return nil
}

// discard is the port of the discard protocol (RFC 863), from where nothing is ever sent.
const discard = 9

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap(), uint16(s.Port))
	}
	return netip.AddrPort{}
}

// frontConn is one socket of a front as a net.PacketConn whose ReadFrom answers what the fast path can and returns the rest.
type frontConn struct {
	*net.UDPConn
	inode  uint64
	to     atomic.Pointer[served]
	server *dns.Server // set when it is read
	batch  *batch
}

// serve starts to read the socket. Questions that the fast path leaves are served as CoreDNS serves those of its own socket.
func (c *frontConn) serve() error {
	started := make(chan struct{})
	failed := make(chan error, 1)
	c.server = &dns.Server{PacketConn: c, Net: "udp", NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		to := c.to.Load()
		if to.fast != nil {
			w = to.fast.remember(w, r)
		}
		handTo(to.server, w, r)
	})}
	go func() { failed <- c.server.ActivateAndServe() }()
	select {
	case <-started:
		return nil
	case err := <-failed:
		return err
	}
}

// handTo has s serve a question as if one of its own sockets had read it.
func handTo(s *dnsserver.Server, w dns.ResponseWriter, r *dns.Msg) {
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, s)
	ctx = context.WithValue(ctx, dnsserver.LoopKey{}, 0)
	s.ServeDNS(ctx, w, r)
}

// stop answers the questions that were read and closes the socket.
func (c *frontConn) stop() {
	if c.server == nil {
		c.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	_ = c.server.ShutdownContext(ctx) // late answers are lost
}

const stopPatience = 5 * time.Second
