// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// Errors of Pools. They are shown to people in the events of a Service.
var (
	ErrExhausted = errors.New("every address of the pool is in use")
	ErrNoPool    = errors.New("no pool of this address family is configured")
	ErrOutside   = errors.New("the address is in no configured pool")
	ErrInUse     = errors.New("the address is in use")
)

// Pools hands out addresses of a list of CIDRs. The zero value has no pool. Safe for concurrent use.
type Pools struct {
	mu       sync.Mutex
	prefixes []netip.Prefix
	owner    map[netip.Addr]string
	next     map[netip.Prefix]netip.Addr // where the search in a pool goes on, so that a freed address is not reused at once
}

// NewPools parses CIDRs. A CIDR with host bits set, one that overlaps another, and one that is not a CIDR are errors.
func NewPools(cidrs []string) (*Pools, error) {
	p := &Pools{owner: map[netip.Addr]string{}, next: map[netip.Prefix]netip.Addr{}}
	for _, c := range cidrs {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(c))
		if err != nil {
			return nil, fmt.Errorf("load-balancer pool %q: want a CIDR such as 192.0.2.0/24: %w", c, err)
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("load-balancer pool %q: has host bits set; did you mean %s?", c, prefix.Masked())
		}
		for _, other := range p.prefixes {
			if other.Overlaps(prefix) {
				return nil, fmt.Errorf("load-balancer pools %s and %s overlap", other, prefix)
			}
		}
		p.prefixes = append(p.prefixes, prefix)
	}
	return p, nil
}

// Allocate returns a free address of the family (is6) and makes owner its holder.
func (p *Pools) Allocate(is6 bool, owner string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := ErrNoPool
	for _, prefix := range p.prefixes {
		if prefix.Addr().Is6() != is6 {
			continue
		}
		err = ErrExhausted
		if a, ok := p.search(prefix); ok {
			p.owner[a] = owner
			p.next[prefix] = a.Next()
			return a, nil
		}
	}
	return netip.Addr{}, err
}

// search finds a free usable address, going once around from where the last search ended. At most as many addresses are looked at as are in
// use, plus the unusable ones, plus one.
func (p *Pools) search(prefix netip.Prefix) (netip.Addr, bool) {
	start := p.next[prefix]
	if !prefix.Contains(start) {
		start = prefix.Addr()
	}
	a := start
	for range len(p.owner) + 3 {
		if _, used := p.owner[a]; !used && usable(prefix, a) {
			return a, true
		}
		if a = a.Next(); !prefix.Contains(a) {
			a = prefix.Addr()
		}
		if a == start {
			break
		}
	}
	return netip.Addr{}, false
}

// usable leaves out the addresses that hosts treat specially: the first of a subnet (network, RFC 1122; subnet-router anycast, RFC 4291
// section 2.6.1) and the IPv4 broadcast address. Subnets of one or two addresses have none (RFC 3021, RFC 6164).
func usable(prefix netip.Prefix, a netip.Addr) bool {
	if prefix.Addr().BitLen()-prefix.Bits() <= 1 {
		return true
	}
	return a != prefix.Addr() && (a.Is6() || prefix.Contains(a.Next()))
}

// Claim makes owner the holder of a, which may be any address of the pools. Claiming one's own address again is no error.
func (p *Pools) Claim(a netip.Addr, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if holder, used := p.owner[a]; used && holder != owner {
		return fmt.Errorf("%s: %w by %s", a, ErrInUse, holder)
	}
	for _, prefix := range p.prefixes {
		if prefix.Contains(a) {
			p.owner[a] = owner
			return nil
		}
	}
	return fmt.Errorf("%s: %w", a, ErrOutside)
}

// Release frees what owner holds except the addresses of keep.
func (p *Pools) Release(owner string, keep ...netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
next:
	for a, holder := range p.owner {
		if holder != owner {
			continue
		}
		for _, k := range keep {
			if k == a {
				continue next
			}
		}
		delete(p.owner, a)
	}
}
