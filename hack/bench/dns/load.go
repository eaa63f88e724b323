// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// load is one kind of look-up: the questions that the n-th of them asks, in order, until one is answered with other than NXDOMAIN.
type load struct {
	about string
	names func(n int) []string
	qtype uint16
	rcode int // of the last answer
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
		{"service", one(func(n int) string { return serviceName(withAddress(n)) }), dns.TypeA, dns.RcodeSuccess},
		{"headless service, 10 endpoints", one(func(n int) string { return serviceName(n*10%services + 5) }), dns.TypeA, dns.RcodeSuccess},
		{"no such service", one(func(n int) string { return fmt.Sprintf("none-%d.%s.svc.cluster.local.", n, namespace(n)) }), dns.TypeA, dns.RcodeNameError},
		{"reverse of a service", one(func(n int) string { name, _ := dns.ReverseAddr(clusterIP(withAddress(n))); return name }), dns.TypePTR, dns.RcodeSuccess},
		{"external name, search list of a pod", func(n int) []string {
			name := fmt.Sprintf("host-%d.example.com.", n%100)
			return []string{name + "ns-0.svc.cluster.local.", name + "svc.cluster.local.", name + "cluster.local.", name}
		}, dns.TypeA, dns.RcodeSuccess},
	}
}

type result struct {
	rate     float64
	p50, p99 time.Duration
	answered int
	failed   int
}

// load asks with all workers for the measurement's time.
func (o options) load(ctx context.Context, address string, l load) result {
	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	var mu sync.Mutex
	var all []time.Duration
	failed := 0
	var wg sync.WaitGroup
	start := time.Now()
	for w := range o.workers {
		wg.Go(func() {
			took, bad := ask(ctx, address, l, w*7919)
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took...), failed+bad
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	slices.Sort(all)
	r := result{rate: float64(len(all)) / elapsed.Seconds(), answered: len(all), failed: failed}
	if n := len(all); n > 0 {
		r.p50, r.p99 = all[n/2].Round(time.Microsecond), all[n*99/100].Round(time.Microsecond)
	}
	return r
}

// ask looks up one name after the other from one port, as a client with a connected socket.
func ask(ctx context.Context, address string, l load, n int) (took []time.Duration, failed int) {
	c := &dns.Client{Timeout: 2 * time.Second}
	conn, err := c.Dial(address)
	if err != nil {
		return nil, 1
	}
	defer conn.Close()
	for ; ctx.Err() == nil; n++ {
		start, rcode := time.Now(), -1
		for _, name := range l.names(n) {
			r, _, err := c.ExchangeWithConn(new(dns.Msg).SetQuestion(name, l.qtype), conn)
			if err != nil {
				rcode = -1
				break
			}
			if rcode = r.Rcode; rcode != dns.RcodeNameError {
				break
			}
		}
		if rcode != l.rcode {
			failed++
			continue
		}
		took = append(took, time.Since(start))
	}
	return took, failed
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
