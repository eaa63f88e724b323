// SPDX-License-Identifier: Apache-2.0

package route

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// The flags of struct ipcache_entry, lib/ipcache.h.
const (
	flagCluster = 1
	flagTunnel  = 2
)

func mapAddr(a netip.Addr) loader.NetAddr {
	if !a.IsValid() {
		return loader.NetAddr{}
	}
	return loader.NetAddr{B: a.As16()}
}

func lpmKey(p netip.Prefix) loader.NetIpcacheKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return loader.NetIpcacheKey{Prefixlen: uint32(bits), Addr: mapAddr(p.Addr())}
}

// syncIPCache makes the ipcache's entries of nodes equal to want. Entries with an identity are policy's: of those only the way is kept right.
func (r *Router) syncIPCache(want map[netip.Prefix]place, prune bool) error {
	m := r.coll.Maps["ipcache"]
	keys := map[loader.NetIpcacheKey]loader.NetIpcacheEntry{}
	for p, pl := range want {
		e := loader.NetIpcacheEntry{Node: mapAddr(pl.node), Mtu: uint16(pl.mtu)}
		if pl.cluster {
			e.Flags |= flagCluster
		}
		if pl.tunnel {
			e.Flags |= flagTunnel
		}
		keys[lpmKey(p)] = e
	}
	var errs []error
	var stale []loader.NetIpcacheKey
	var k loader.NetIpcacheKey
	var e loader.NetIpcacheEntry
	it := m.Iterate()
	for it.Next(&k, &e) {
		w, ok := keys[k]
		w.Identity = e.Identity
		switch {
		case !ok && e.Identity == 0:
			stale = append(stale, k)
		case ok && w == e:
			delete(keys, k)
		case ok:
			keys[k] = w
		}
	}
	errs = append(errs, it.Err())
	for k, e := range keys {
		if err := m.Put(&k, &e); err != nil {
			errs = append(errs, fmt.Errorf("write ipcache: %w", err))
		}
	}
	if prune {
		for _, k := range stale {
			if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, fmt.Errorf("prune ipcache: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// syncUplinks makes the uplinks map equal to want.
func (r *Router) syncUplinks(want map[int]masquerade) error {
	m := r.coll.Maps["uplinks"]
	var errs []error
	var stale []uint32
	var k uint32
	var v loader.NetUplink
	it := m.Iterate()
	for it.Next(&k, &v) {
		if _, ok := want[int(k)]; !ok {
			stale = append(stale, k)
		}
	}
	errs = append(errs, it.Err())
	for i, w := range want {
		k, v := uint32(i), loader.NetUplink{Addr4: mapAddr(w.addr4), Addr6: mapAddr(w.addr6)}
		if err := m.Put(&k, &v); err != nil {
			errs = append(errs, fmt.Errorf("write uplink addresses: %w", err))
		}
	}
	for _, k := range stale {
		if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("prune uplink addresses: %w", err))
		}
	}
	return errors.Join(errs...)
}
