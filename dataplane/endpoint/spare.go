// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Attaching a program to tcx waits for an RCU grace period in the kernel, some 10 ms each, and a pod needs two. So a few veth pairs wait ready made, with their programs,
// and an ADD only moves the inner end into the container. A burst of ADDs that uses them up makes pairs as it goes.

// spareCount is how many pairs wait.
const spareCount = 8

// hostIfPrefix begins the name of every host side that this package makes, innerPrefix that of an inner end still at home; twelve hexadecimal digits follow.
const (
	hostIfPrefix = "fl"
	innerPrefix  = "fs"
)

// pair is a veth pair whose ends are both in the node's namespace: the host side is up and has its programs.
type pair struct {
	hostIf  string
	ifindex int
	inner   string
	hostMAC [6]byte
	mtu     int
}

type spares struct {
	rec *reconciler
	mtu func() int

	mu    sync.Mutex
	ready []pair
	busy  map[string]bool // host sides being made
	taken chan struct{}   // pokes the maker
}

func newSpares(rec *reconciler, mtu func() int) *spares {
	return &spares{rec: rec, mtu: mtu, taken: make(chan struct{}, 1), busy: map[string]bool{}}
}

// take returns a pair, a waiting one if there is one. Its owner has to remove it.
func (s *spares) take() (pair, error) {
	s.mu.Lock()
	if n := len(s.ready); n > 0 {
		p := s.ready[n-1]
		s.ready = s.ready[:n-1]
		s.mu.Unlock()
		select {
		case s.taken <- struct{}{}:
		default:
		}
		return p, nil
	}
	s.mu.Unlock()
	p, err := newPair(s.mtu())
	if err == nil {
		err = s.build(&p)
	}
	return p, err
}

// names returns the host sides that wait or are being made.
func (s *spares) names() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := maps.Clone(s.busy)
	for _, p := range s.ready {
		out[p.hostIf] = true
	}
	return out
}

// adopt takes on the pairs that an earlier agent left waiting: both ends are at home.
func (s *spares) adopt() error {
	links, err := netlink.LinkList()
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 10; try++ {
		links, err = netlink.LinkList()
	}
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	hosts := map[string]*netlink.LinkAttrs{}
	for _, l := range links {
		if isOurs(l) {
			hosts[l.Attrs().Name] = l.Attrs()
		}
	}
	for _, l := range links {
		tail, ok := strings.CutPrefix(l.Attrs().Name, innerPrefix)
		host := hosts[hostIfPrefix+tail]
		if !ok || l.Type() != "veth" || host == nil || host.ParentIndex != l.Attrs().Index {
			continue
		}
		p := pair{hostIf: host.Name, ifindex: host.Index, inner: l.Attrs().Name, mtu: host.MTU}
		copy(p.hostMAC[:], host.HardwareAddr)
		if host.Flags&net.FlagUp == 0 || s.rec.attach(p.hostIf, p.ifindex) != nil {
			continue // not finished: the sweep removes it
		}
		s.mu.Lock()
		s.ready = append(s.ready, p)
		s.mu.Unlock()
	}
	return nil
}

// quiet is how long no pair must have been taken before one is made: making one holds the kernel's RTNL lock for long, and ADDs need it too.
const quiet = 100 * time.Millisecond

// run keeps spareCount pairs waiting until ctx ends. They stay, for the next agent.
func (s *spares) run(ctx context.Context) {
	log := klog.FromContext(ctx)
	wait := time.Duration(0)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.taken:
			timer.Stop()
			wait = quiet
			continue
		case <-timer.C:
		}
		s.mu.Lock()
		missing := spareCount - len(s.ready)
		s.mu.Unlock()
		if wait = time.Hour; missing <= 0 {
			continue
		}
		wait = 0
		if err := s.add(); err != nil {
			log.Error(err, "Cannot make a spare veth pair")
			wait = 5 * time.Second
		}
	}
}

// add makes a pair and lets it wait.
func (s *spares) add() error {
	p, err := newPair(s.mtu())
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.busy[p.hostIf] = true
	s.mu.Unlock()
	err = s.build(&p)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, p.hostIf)
	if err == nil {
		s.ready = append(s.ready, p)
	}
	return err
}

// newPair names a pair.
func newPair(mtu int) (p pair, err error) {
	var tail [6]byte
	if _, err := rand.Read(tail[:]); err != nil {
		return p, err
	}
	return pair{hostIf: fmt.Sprintf("%s%x", hostIfPrefix, tail), inner: fmt.Sprintf("%s%x", innerPrefix, tail), mtu: mtu}, nil
}

// build makes the pair in the kernel. On error it is gone.
func (s *spares) build(p *pair) (err error) {
	if p.hostMAC, err = macFor(""); err != nil {
		return err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.hostIf, MTU: p.mtu, HardwareAddr: p.hostMAC[:]}, PeerName: p.inner, PeerMTU: uint32(p.mtu)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth pair %s: %w", p.hostIf, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.rec.removePair(p.hostIf))
		}
	}()
	host, err := netlink.LinkByName(p.hostIf)
	if err != nil {
		return fmt.Errorf("find %s: %w", p.hostIf, err)
	}
	p.ifindex = host.Attrs().Index
	if err := configureHost(p.hostIf); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", p.hostIf, err)
	}
	return s.rec.attach(p.hostIf, p.ifindex)
}

// give moves p's inner end into ns as ifName with the given MAC and MTU.
func (p pair) give(ns *os.File, ifName string, mac [6]byte, mtu int) error {
	inner, err := netlink.LinkByName(p.inner)
	if err != nil {
		return fmt.Errorf("find %s: %w", p.inner, err)
	}
	if p.mtu != mtu {
		host, err := netlink.LinkByIndex(p.ifindex)
		if err == nil {
			err = errors.Join(netlink.LinkSetMTU(host, mtu), netlink.LinkSetMTU(inner, mtu))
		}
		if err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", p.hostIf, mtu, err)
		}
	}
	if err := netlink.LinkSetHardwareAddr(inner, mac[:]); err != nil {
		return fmt.Errorf("set MAC of %s: %w", p.inner, err)
	}
	if err := netlink.LinkSetNsFd(inner, int(ns.Fd())); err != nil {
		return fmt.Errorf("move %s into the container: %w", p.inner, err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer h.Close()
	if inner, err = h.LinkByName(p.inner); err != nil {
		return fmt.Errorf("find %s in the container: %w", p.inner, err)
	}
	if err := h.LinkSetName(inner, ifName); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("the container already has an interface %s", ifName), err.Error())
		}
		return fmt.Errorf("name the container's interface %s: %w", ifName, err)
	}
	return nil
}
