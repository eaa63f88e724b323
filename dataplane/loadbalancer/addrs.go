// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
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
