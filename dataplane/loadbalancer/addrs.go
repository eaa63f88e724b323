// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// network is what the load balancer looks at of its network namespace: the node's own addresses, and its devices by name.
type network struct {
	addrs map[netip.Addr]bool
	links map[string]int
}

func (n network) equal(o network) bool {
	return maps.Equal(n.addrs, o.addrs) && maps.Equal(n.links, o.links)
}

// watchNetwork delivers the state of the calling thread's network namespace: at once, then again after changes. The channel holds only the latest state.
// stop ends the watch and waits for it.
func watchNetwork(log klog.Logger) (_ <-chan network, stop func(), _ error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, nil, fmt.Errorf("this thread's network namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, fmt.Errorf("open netlink: %w", err)
	}
	// Subscribe first, list second: nothing falls in between. A socket in the runtime's poller, because closing it must end a read.
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, nil, fmt.Errorf("watch network: %w", err)
	}
	events := os.NewFile(uintptr(fd), "rtnetlink")
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	var state network
	if err == nil {
		state, err = listNetwork(h)
	}
	if err != nil {
		h.Close()
		events.Close()
		return nil, nil, fmt.Errorf("watch network: %w", err)
	}
	out := make(chan network, 1)
	out <- state
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer h.Close()
		buf := make([]byte, 65536)
		for {
			if _, err := events.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
				if !errors.Is(err, os.ErrClosed) {
					log.Error(err, "watch network")
				}
				return
			}
			// What changes together is read once. An overflow (ENOBUFS) means no more than any other event: look again.
			_ = events.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			for {
				if _, err := events.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
					break
				}
			}
			_ = events.SetReadDeadline(time.Time{})
			next, err := listNetwork(h)
			if err != nil {
				log.Error(err, "read network")
				continue
			}
			if next.equal(state) {
				continue
			}
			state = next
			select {
			case <-out:
			default:
			}
			out <- state
		}
	}()
	return out, func() {
		events.Close()
		<-finished
	}, nil
}

// listNetwork reads addresses and devices. Link-local IPv6 addresses and ::1 do not count (a NodePort is not valid there); 127.0.0.1 does.
func listNetwork(h *netlink.Handle) (network, error) {
	n := network{addrs: map[netip.Addr]bool{}, links: map[string]int{}}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return n, fmt.Errorf("list addresses: %w", err)
	}
	for i := range addrs {
		a, ok := netip.AddrFromSlice(addrs[i].IP)
		a = a.Unmap()
		if ok && !(a.Is6() && a.IsLinkLocalUnicast()) && a != netip.IPv6Loopback() {
			n.addrs[a] = true
		}
	}
	links, err := h.LinkList()
	if err != nil {
		return n, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		n.links[l.Attrs().Name] = l.Attrs().Index
	}
	return n, nil
}
