// SPDX-License-Identifier: Apache-2.0

// Package health measures the pod network between nodes: each node asks every other one for an echo, from its own address in the pod network to the other's, so that
// a probe takes the way that pods' packets take (native or tunnel, either direction).
//
// Its input is tables.Nodes; its output is metrics and RunDir/peers.json, rewritten whole after every round, which `flctl health` reads. It changes nothing.
// The echo is UDP with a random nonce per probe, so that a late or forged answer counts for nothing; the responder answers only packets of a probe's size and mark, with the same
// number of bytes, so it amplifies nothing.
package health

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/ipam"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Port is where nodes answer probes, on their pod network addresses.
const Port = 4244

// Config of the prober.
type Config struct {
	NodeName string
	RunDir   string
	Tables   *tables.Tables
	Interval time.Duration // between rounds; 0: 10 s
	Timeout  time.Duration // for an answer; 0: 1 s
}

// Peer is what is known of one address of another node.
type Peer struct {
	Node      string        `json:"node"`
	Addr      netip.Addr    `json:"addr"`
	Reachable bool          `json:"reachable"`
	Latency   time.Duration `json:"latency"`           // of the last answer, ns
	LastSeen  time.Time     `json:"lastSeen,omitzero"` // of the last answer
	Sent      uint64        `json:"sent"`
	Lost      uint64        `json:"lost"`
}

var (
	reachable = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fairlead_peer_reachable", Help: "Whether another node answered the last probe over the pod network.",
	}, []string{"node", "family"})
	latency = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fairlead_peer_latency_seconds", Help: "Round trip of the last answered probe of another node over the pod network.",
	}, []string{"node", "family"})
)

// Metrics are this package's collectors.
func Metrics() []prometheus.Collector { return []prometheus.Collector{reachable, latency} }

// A probe and its answer: mark, kind, nonce.
const (
	mark     = "flhealth"
	ask      = 1
	answer   = 2
	nonceLen = 15
	size     = len(mark) + 1 + nonceLen
)

// Run probes and answers until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	p := &prober{cfg: cfg, known: map[netip.Addr]*Peer{}, sockets: map[netip.Addr]*socket{}}
	defer p.close()
	for {
		if err := p.round(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(1).Info("Health probes were not complete", "err", err)
		}
		timer := time.NewTimer(cfg.Interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

type prober struct {
	cfg     Config
	known   map[netip.Addr]*Peer
	sockets map[netip.Addr]*socket // by own address
}

// socket answers probes and collects the answers to ours.
type socket struct {
	conn *net.UDPConn
	done chan struct{}

	mu      sync.Mutex
	waiting map[[nonceLen]byte]waiter
}

type waiter struct {
	from netip.Addr
	got  chan time.Time
}

// nodeAddrs are a node's addresses in the pod network.
func nodeAddrs(n *tables.Node) []netip.Addr {
	var out []netip.Addr
	for _, c := range n.PodCIDRs {
		out = append(out, ipam.NodeAddr(c))
	}
	return out
}

// round probes every peer once and writes what came of it.
func (p *prober) round(ctx context.Context) error {
	txn := p.cfg.Tables.DB.ReadTxn()
	self, _, ok := p.cfg.Tables.Nodes.Get(txn, tables.NodeByName.Query(p.cfg.NodeName))
	if !ok {
		return nil
	}
	errs := []error{p.listen(nodeAddrs(self))}
	current := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for n := range p.cfg.Tables.Nodes.All(txn) {
		if n.Name == self.Name {
			continue
		}
		for _, a := range nodeAddrs(n) {
			s := p.from(a.Is4())
			if s == nil {
				continue // we have no address of that family
			}
			current[a] = true
			peer := p.known[a]
			if peer == nil || peer.Node != n.Name {
				peer = &Peer{Node: n.Name, Addr: a}
				p.known[a] = peer
			}
			wg.Go(func() {
				took, err := s.probe(ctx, a, p.cfg.Timeout)
				peer.Sent++
				if peer.Reachable = err == nil; err != nil {
					peer.Lost++
					return
				}
				peer.Latency, peer.LastSeen = took, time.Now().UTC()
			})
		}
	}
	wg.Wait()
	for a, peer := range p.known {
		family := "6"
		if a.Is4() {
			family = "4"
		}
		if !current[a] {
			delete(p.known, a)
			reachable.DeleteLabelValues(peer.Node, family)
			latency.DeleteLabelValues(peer.Node, family)
			continue
		}
		up := 0.0
		if peer.Reachable {
			up = 1
			latency.WithLabelValues(peer.Node, family).Set(peer.Latency.Seconds())
		}
		reachable.WithLabelValues(peer.Node, family).Set(up)
	}
	return errors.Join(append(errs, p.write())...)
}

// listen makes the sockets those of addrs.
func (p *prober) listen(addrs []netip.Addr) error {
	var errs []error
	for a, s := range p.sockets {
		if !slices.Contains(addrs, a) {
			s.close()
			delete(p.sockets, a)
		}
	}
	for _, a := range addrs {
		if p.sockets[a] != nil {
			continue
		}
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, Port)))
		if err != nil {
			errs = append(errs, fmt.Errorf("listen for health probes: %w", err))
			continue
		}
		s := &socket{conn: conn, done: make(chan struct{}), waiting: map[[nonceLen]byte]waiter{}}
		go s.serve()
		p.sockets[a] = s
	}
	return errors.Join(errs...)
}

func (p *prober) from(is4 bool) *socket {
	for a, s := range p.sockets {
		if a.Is4() == is4 {
			return s
		}
	}
	return nil
}

func (p *prober) close() {
	for _, s := range p.sockets {
		s.close()
	}
}

func (s *socket) close() {
	s.conn.Close()
	<-s.done
}

func (s *socket) serve() {
	defer close(s.done)
	buf := make([]byte, size+1)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != size || !bytes.HasPrefix(buf, []byte(mark)) {
			continue
		}
		switch buf[len(mark)] {
		case ask:
			buf[len(mark)] = answer
			_, _ = s.conn.WriteToUDPAddrPort(buf[:n], from) // a lost answer is a lost probe
		case answer:
			at := time.Now()
			s.mu.Lock()
			w, ok := s.waiting[[nonceLen]byte(buf[len(mark)+1:n])]
			s.mu.Unlock()
			if ok && w.from == from.Addr().Unmap() {
				select {
				case w.got <- at:
				default:
				}
			}
		}
	}
}

// probe asks to for an echo and returns the round trip.
func (s *socket) probe(ctx context.Context, to netip.Addr, timeout time.Duration) (time.Duration, error) {
	msg := append([]byte(mark), ask)
	var nonce [nonceLen]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return 0, err
	}
	msg = append(msg, nonce[:]...)
	w := waiter{from: to, got: make(chan time.Time, 1)}
	s.mu.Lock()
	s.waiting[nonce] = w
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, nonce)
		s.mu.Unlock()
	}()
	start := time.Now()
	if _, err := s.conn.WriteToUDPAddrPort(msg, netip.AddrPortFrom(to, Port)); err != nil {
		return 0, err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case at := <-w.got:
		return at.Sub(start), nil
	case <-timer.C:
		return 0, fmt.Errorf("no answer from %s within %s", to, timeout)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// File is the name of the report in RunDir.
const File = "peers.json"

func (p *prober) write() error {
	peers := make([]*Peer, 0, len(p.known))
	for _, peer := range p.known {
		peers = append(peers, peer)
	}
	slices.SortFunc(peers, func(a, b *Peer) int {
		if c := strings.Compare(a.Node, b.Node); c != 0 {
			return c
		}
		return a.Addr.Compare(b.Addr)
	})
	body, err := json.MarshalIndent(peers, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(p.cfg.RunDir, File)
	if err := os.WriteFile(path+".new", append(body, '\n'), 0o644); err != nil {
		return fmt.Errorf("write health report: %w", err)
	}
	return os.Rename(path+".new", path)
}
