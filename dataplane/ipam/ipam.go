// SPDX-License-Identifier: Apache-2.0

// Package ipam hands out the node's pod addresses: one per family from the node's pod CIDRs.
//
// Its input is the CIDRs (from the Node's spec.podCIDRs, by SetCIDRs) and an owner's name per request; its output is addresses, and a log on disk (see log.go)
// from which a restarted agent learns who has what. It programs nothing. A released address rests for the quarantine time, so that connections, conntrack entries and DNS answers
// that still name it do not reach the next pod. Allocation goes round the range, which makes reuse as late as it can be.
package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ErrExhausted is returned when a range has no address that is neither taken nor in quarantine.
var ErrExhausted = errors.New("no free pod address")

// ErrTaken is returned when an address that was asked for belongs to another owner, is reserved or lies outside the node's ranges.
var ErrTaken = errors.New("address cannot be given")

// ErrNoRange is returned while the node has no pod CIDR yet.
var ErrNoRange = errors.New("the node has no pod CIDR")

// DefaultQuarantine is how long a released address rests.
const DefaultQuarantine = 15 * time.Second

// Config of a Pool.
type Config struct {
	Path       string           // the log; its directory is made
	Quarantine time.Duration    // 0: DefaultQuarantine; negative: none
	Now        func() time.Time // nil: time.Now
}

// Pool is a node's addresses. Its methods are safe for concurrent use.
type Pool struct {
	cfg Config

	mu     sync.Mutex
	log    *journal
	ranges []*span
	owners map[string][]netip.Addr
	taken  map[netip.Addr]string
	rest   map[netip.Addr]time.Time // end of quarantine
}

// Open reads the log and returns the pool as it was when the last agent ended. It holds the file open until Close.
func Open(cfg Config) (*Pool, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Quarantine == 0 {
		cfg.Quarantine = DefaultQuarantine
	}
	p := &Pool{cfg: cfg, owners: map[string][]netip.Addr{}, taken: map[netip.Addr]string{}, rest: map[netip.Addr]time.Time{}}
	j, err := openJournal(cfg.Path, p.replay)
	if err != nil {
		return nil, fmt.Errorf("open address log: %w", err)
	}
	p.log = j
	if err := p.compact(); err != nil {
		j.close()
		return nil, fmt.Errorf("rewrite address log: %w", err)
	}
	return p, nil
}

// Close closes the log.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.close()
}

// SetCIDRs makes cidrs the ranges that addresses come from. Addresses already given from other ranges stay with their owners until they are released.
func (p *Pool) SetCIDRs(cidrs []netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ranges []*span
	for _, c := range cidrs {
		c = c.Masked()
		if i := slices.IndexFunc(p.ranges, func(s *span) bool { return s.prefix == c }); i >= 0 {
			ranges = append(ranges, p.ranges[i])
			continue
		}
		s, err := newSpan(c)
		if err != nil {
			return err
		}
		ranges = append(ranges, s)
	}
	p.ranges = ranges
	return nil
}

// CIDRs returns the ranges.
func (p *Pool) CIDRs() []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]netip.Prefix, 0, len(p.ranges))
	for _, s := range p.ranges {
		out = append(out, s.prefix)
	}
	return out
}

// Allocate gives owner one address of each family that the node has a range for, on disk before it returns. want names addresses to be had exactly; a family
// without one there gets the next free. An owner that has addresses already gets the same again.
func (p *Pool) Allocate(owner string, want ...netip.Addr) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.owners[owner]; ok {
		for _, w := range want {
			if !slices.Contains(have, w) {
				return nil, fmt.Errorf("%w: %s already has %v, not %s", ErrTaken, owner, have, w)
			}
		}
		return slices.Clone(have), nil
	}
	if len(p.ranges) == 0 {
		return nil, ErrNoRange
	}
	now := p.cfg.Now()
	var got []netip.Addr
	for _, w := range want {
		s := p.spanOf(w)
		if s == nil || s.reserved(w) || p.taken[w] != "" || slices.Contains(got, w) {
			return nil, fmt.Errorf("%w: %s", ErrTaken, w)
		}
		got = append(got, w)
	}
	for _, is4 := range []bool{true, false} {
		if slices.ContainsFunc(got, func(a netip.Addr) bool { return a.Is4() == is4 }) {
			continue
		}
		var spans []*span
		for _, s := range p.ranges {
			if s.prefix.Addr().Is4() == is4 {
				spans = append(spans, s)
			}
		}
		if len(spans) == 0 {
			continue
		}
		a, ok := p.next(spans, now)
		if !ok {
			return nil, fmt.Errorf("%w in %s: %s", ErrExhausted, spans[0].prefix, p.usage(spans))
		}
		got = append(got, a)
	}
	if err := p.log.append(record{Op: opTake, Owner: owner, Addrs: got}); err != nil {
		return nil, fmt.Errorf("write address log: %w", err)
	}
	p.take(owner, got)
	return slices.Clone(got), nil
}

// next takes the first free address of spans, going on from where the last allocation was.
func (p *Pool) next(spans []*span, now time.Time) (netip.Addr, bool) {
	for _, s := range spans {
		// Never more steps than addresses that can be in the way, plus the reserved ones.
		for range min(s.size, uint64(len(p.taken)+len(p.rest)+4)) {
			a := s.step()
			if s.reserved(a) || p.taken[a] != "" {
				continue
			}
			if until, ok := p.rest[a]; ok {
				if now.Before(until) {
					continue
				}
				delete(p.rest, a)
			}
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Release takes owner's addresses back, into quarantine. Releasing what an owner does not have is no error and returns none.
func (p *Pool) Release(owner string) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	addrs, ok := p.owners[owner]
	if !ok {
		return nil, nil
	}
	r := record{Op: opFree, Owner: owner, Time: p.cfg.Now().UnixMilli()}
	if err := p.log.append(r); err != nil {
		return nil, fmt.Errorf("write address log: %w", err)
	}
	p.free(r)
	if p.log.lines > 1024+4*(len(p.owners)+len(p.rest)) {
		if err := p.compact(); err != nil {
			return addrs, fmt.Errorf("rewrite address log: %w", err)
		}
	}
	return addrs, nil
}

// Owners returns every owner and its addresses.
func (p *Pool) Owners() map[string][]netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.owners)
}

// Usage counts the addresses of one range.
type Usage struct {
	Prefix   netip.Prefix
	Size     uint64 // that can be given at all
	Taken    uint64
	Resting  uint64 // in quarantine
	Exceeded bool   // nothing is free now
}

// Usage returns the state of each range.
func (p *Pool) Usage() []Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Usage, 0, len(p.ranges))
	for _, s := range p.ranges {
		out = append(out, p.usageOf(s))
	}
	return out
}

func (p *Pool) usageOf(s *span) Usage {
	u := Usage{Prefix: s.prefix, Size: s.usable()}
	for a := range p.taken {
		if s.prefix.Contains(a) {
			u.Taken++
		}
	}
	now := p.cfg.Now()
	for a, until := range p.rest {
		if s.prefix.Contains(a) && now.Before(until) {
			u.Resting++
		}
	}
	u.Exceeded = u.Taken+u.Resting >= u.Size
	return u
}

func (p *Pool) usage(spans []*span) string {
	var taken, rest, size uint64
	for _, s := range spans {
		u := p.usageOf(s)
		taken, rest, size = taken+u.Taken, rest+u.Resting, size+u.Size
	}
	return fmt.Sprintf("%d of %d taken, %d resting for up to %s", taken, size, rest, p.cfg.Quarantine)
}

func (p *Pool) spanOf(a netip.Addr) *span {
	for _, s := range p.ranges {
		if s.prefix.Contains(a) {
			return s
		}
	}
	return nil
}

func (p *Pool) take(owner string, addrs []netip.Addr) {
	p.owners[owner] = addrs
	for _, a := range addrs {
		p.taken[a] = owner
		delete(p.rest, a)
	}
}

func (p *Pool) free(r record) {
	for _, a := range p.owners[r.Owner] {
		if p.taken[a] == r.Owner { // a damaged log may name two owners
			delete(p.taken, a)
			p.quarantine(a, r.Time)
		}
	}
	delete(p.owners, r.Owner)
}

// quarantine rests a from since (unix milliseconds) on. A time ahead of the clock (which was set back) counts as now.
func (p *Pool) quarantine(a netip.Addr, since int64) {
	if p.cfg.Quarantine < 0 {
		return
	}
	now := p.cfg.Now()
	from := time.UnixMilli(since)
	if from.After(now) {
		from = now
	}
	if until := from.Add(p.cfg.Quarantine); until.After(now) {
		p.rest[a] = until
	}
}
