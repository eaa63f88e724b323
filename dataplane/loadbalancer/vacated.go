// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"sync"

	"github.com/fairlead/fairlead/dataplane/conntrack"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// vacated gathers the frontends that left the kernel since connections were last swept. Programs look for a packet's connection before its service, so a
// datagram flow to an address that a service gave up would go on for as long as it is used: the sweep ends it. TCP connections end by themselves.
type vacated struct {
	wake chan struct{}
	mu   sync.Mutex
	keys map[loader.BPFServiceKey]bool
}

func newVacated() *vacated { return &vacated{wake: make(chan struct{}, 1)} }

// add notes frontends and asks for a sweep. It does not block.
func (v *vacated) add(keys []loader.BPFServiceKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, k := range keys {
		if k.Proto == 0 || k.Proto == uint8(tables.TCP) {
			continue
		}
		if v.keys == nil {
			v.keys = map[loader.BPFServiceKey]bool{}
		}
		v.keys[k] = true
	}
	if len(v.keys) > 0 {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
}

// take returns what add noted since the last call; nil if nothing.
func (v *vacated) take() map[loader.BPFServiceKey]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	keys := v.keys
	v.keys = nil
	return keys
}

// has says whether the entry belongs to a connection to one of keys: by its own destination, or in the other direction by the source it restores. A
// NodePort is kept under the unspecified address of its family. served says whether the kernel has a frontend, maybe again.
func (*vacated) has(keys map[loader.BPFServiceKey]bool, k *loader.BPFCtKey, e *loader.BPFCt, served func(loader.BPFServiceKey) bool) bool {
	f := loader.BPFServiceKey{Addr: k.Daddr, Port: k.Dport, Proto: k.Proto}
	if e.Flags&conntrack.FlagReply != 0 {
		f.Addr, f.Port = e.Saddr, e.Sport
	}
	exact := f
	any := netip.IPv6Unspecified()
	if netip.AddrFrom16(f.Addr.B).Is4In6() {
		any = netip.IPv4Unspecified()
	}
	f.Addr = loader.Addr(any.As16())
	return (keys[exact] || keys[f]) && !served(exact) && !served(f)
}
