// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// watchAddrs delivers the addresses of the calling thread's network namespace: all at first, then again after each change. The channel holds
// only the latest state. Link-local IPv6 addresses and ::1 do not count (a NodePort is not valid there); 127.0.0.1 does.
// stop ends the watch and waits for it.
func watchAddrs(ctx context.Context) (_ <-chan map[netip.Addr]bool, stop func(), _ error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, nil, fmt.Errorf("this thread's network namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, nil, fmt.Errorf("open netlink: %w", err)
	}
	updates := make(chan netlink.AddrUpdate, 64)
	done := make(chan struct{})
	if err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{Namespace: &ns}); err != nil {
		h.Close()
		return nil, nil, fmt.Errorf("watch addresses: %w", err)
	}
	list, err := h.AddrList(nil, netlink.FAMILY_ALL)
	h.Close()
	if err != nil {
		close(done)
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	state := map[netip.Addr]bool{}
	for i := range list {
		if a, ok := nodeAddr(list[i].IP); ok {
			state[a] = true
		}
	}
	out := make(chan map[netip.Addr]bool, 1)
	out <- maps.Clone(state)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for u := range updates {
			a, ok := nodeAddr(u.LinkAddress.IP)
			if !ok || state[a] == u.NewAddr {
				continue
			}
			if u.NewAddr {
				state[a] = true
			} else {
				delete(state, a)
			}
			select {
			case <-out:
			default:
			}
			out <- maps.Clone(state)
		}
	}()
	return out, func() {
		close(done)
		<-finished
	}, nil
}

func nodeAddr(ip []byte) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	if !ok || a.IsLinkLocalUnicast() && a.Is6() || a == netip.IPv6Loopback() {
		return a, false
	}
	return a, true
}

// watchLinks tells when one of the named devices of the calling thread's network namespace appears anew. stop ends the watch and waits for it.
func watchLinks(names []string) (_ <-chan struct{}, stop func(), _ error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, nil, fmt.Errorf("this thread's network namespace: %w", err)
	}
	defer ns.Close()
	updates := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &ns, ListExisting: true}); err != nil {
		return nil, nil, fmt.Errorf("watch devices: %w", err)
	}
	out := make(chan struct{}, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		known := map[string]int32{}
		for u := range updates {
			name := u.Attrs().Name
			if !slices.Contains(names, name) || u.Header.Type == unix.RTM_DELLINK || known[name] == u.Index {
				continue
			}
			known[name] = u.Index
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, func() {
		close(done)
		<-finished
	}, nil
}
