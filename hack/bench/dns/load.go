// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// load is one kind of look-up: the questions that the n-th of them asks, in order, until one is answered with other than NXDOMAIN.
type load struct {
	about  string
	names  func(n int) []string
	qtype  uint16
	rcode  int     // of the last answer
	target float64 // rate, in CoreDNS's
}

func loads(services int) []load {
	one := func(f func(n int) string) func(int) []string {
		return func(n int) []string { return []string{f(n)} }
	}
	withAddress := func(n int) int { // a service that is not headless
		if i := n % services; i%10 != 5 {
			return i
		}
		return n%services - 1
	}
	return []load{
		{"service", one(func(n int) string { return serviceName(withAddress(n)) }), dns.TypeA, dns.RcodeSuccess, 2},
		{"headless service, 10 endpoints", one(func(n int) string { return serviceName(n*10%services + 5) }), dns.TypeA, dns.RcodeSuccess, 2},
		{"no such service", one(func(n int) string { return fmt.Sprintf("none-%d.%s.svc.cluster.local.", n, namespace(n)) }), dns.TypeA, dns.RcodeNameError, 2},
		{"reverse of a service", one(func(n int) string { name, _ := dns.ReverseAddr(clusterIP(withAddress(n))); return name }), dns.TypePTR, dns.RcodeSuccess, 2},
		{"external name, search list of a pod", func(n int) []string {
			name := fmt.Sprintf("host-%d.example.com.", n%100)
			return []string{name + "ns-0.svc.cluster.local.", name + "svc.cluster.local.", name + "cluster.local.", name}
		}, dns.TypeA, dns.RcodeSuccess, 4},
	}
}

type result struct {
	rate     float64
	p50, p99 time.Duration
	answered int
	failed   int
}

// variety is how many different look-ups there are of a kind.
const variety = 20000

// load asks on all sockets for the measurement's time.
func (o options) load(ctx context.Context, address string, l load) (result, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return result{}, err
	}
	packets := make([][][]byte, variety) // packed before: the load's own cost would hide the servers'
	for n := range packets {
		for _, name := range l.names(n) {
			p, err := new(dns.Msg).SetQuestion(name, l.qtype).Pack()
			if err != nil {
				return result{}, err
			}
			packets[n] = append(packets[n], p)
		}
	}
	clients := make([]client, o.sockets)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range clients {
		c := &clients[i]
		wg.Go(func() { c.err = c.run(ctx, to, packets, i*variety/o.sockets, o.window, l.rcode, start.Add(o.duration)) })
	}
	wg.Wait()
	elapsed := time.Since(start)
	var all []time.Duration
	var r result
	for _, c := range clients {
		if c.err != nil {
			return r, c.err
		}
		all, r.failed = append(all, c.took...), r.failed+c.failed
	}
	slices.Sort(all)
	if r.answered = len(all); r.answered > 0 {
		r.rate = float64(r.answered) / elapsed.Seconds()
		r.p50, r.p99 = all[len(all)/2], all[len(all)*99/100]
	}
	return r, nil
}

// client is one socket with several look-ups in flight.
type client struct {
	took   []time.Duration
	failed int
	err    error
}

// flight is one look-up. The low bits of its questions' ids say which of the socket's it is, the high ones which question.
type flight struct {
	questions [][]byte
	next      int
	id        uint16
	since     time.Time
}

func (c *client) run(ctx context.Context, to netip.AddrPort, packets [][][]byte, first, window, rcode int, until time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	flights, buf := make([]flight, window), make([]byte, 2048)
	packet := make([]byte, 512)
	n := first
	send := func(slot int) error {
		f := &flights[slot]
		f.id += uint16(window)
		p := append(packet[:0], f.questions[f.next]...)
		p[0], p[1] = byte(f.id>>8), byte(f.id)
		_, err := unix.Write(fd, p)
		return err
	}
	begin := func(slot int) error {
		id := flights[slot].id
		flights[slot] = flight{questions: packets[n%variety], id: id, since: time.Now()}
		n++
		return send(slot)
	}
	for slot := range flights {
		flights[slot].id = uint16(slot)
		if err := begin(slot); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		size, err := unix.Read(fd, buf)
		now := time.Now()
		if errors.Is(err, unix.EAGAIN) { // all that were in flight are lost
			c.failed += window
			for slot := range flights {
				if err := begin(slot); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if now.After(until) {
			return nil
		}
		id := uint16(buf[0])<<8 | uint16(buf[1])
		slot := int(id) % window
		f := &flights[slot]
		if size < 12 || id != f.id {
			continue
		}
		got := int(buf[3] & 0xf)
		if f.next++; got == dns.RcodeNameError && f.next < len(f.questions) {
			if err := send(slot); err != nil {
				return err
			}
			continue
		}
		if got == rcode {
			c.took = append(c.took, now.Sub(f.since))
		} else {
			c.failed++
		}
		if err := begin(slot); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// world is the upstream server: it knows every name below example.com.
func world() (address string, stop func(), err error) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		if q := r.Question[0]; strings.HasSuffix(q.Name, ".example.com.") && q.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 1)}}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m) // counted as failed by the asker
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ActivateAndServe() }() // ends with the socket
	return pc.LocalAddr().String(), func() { pc.Close(); <-done }, nil
}
