// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// filter keeps the address filter: a bit is set while any address with that hash has a services entry.
type filter struct {
	bits *loader.BPFVipBits
	refs [1 << 16]uint32
}

// keep sets the bit of an address for good: until the next sweep of another agent.
func (f *filter) keep(a loader.BPFAddr) {
	if b := filterBit(a); f.refs[b] == 0 {
		f.add(a)
	}
}

// filterBit repeats addr_filter_bit of bpf/lib/hash.h.
func filterBit(a loader.BPFAddr) uint32 {
	const mult = 0x9E3779B97F4A7C15
	h := uint64(0)
	for i := 0; i < 16; i += 8 {
		w := uint64(binary.NativeEndian.Uint32(a.B[i:]))<<32 | uint64(binary.NativeEndian.Uint32(a.B[i+4:]))
		h = (h ^ w) * mult
		h ^= h >> 32
	}
	return uint32(h & 0xffff)
}

func (f *filter) add(a loader.BPFAddr) {
	b := filterBit(a)
	if f.refs[b]++; f.refs[b] == 1 {
		w := &f.bits.Bits[b/64]
		atomic.StoreUint64(w, atomic.LoadUint64(w)|1<<(b%64))
	}
}

func (f *filter) remove(a loader.BPFAddr) {
	b := filterBit(a)
	if f.refs[b]--; f.refs[b] == 0 {
		w := &f.bits.Bits[b/64]
		atomic.StoreUint64(w, atomic.LoadUint64(w)&^(1<<(b%64)))
	}
}

// sweep clears the bits that nobody holds: what an earlier agent left. Called once, when everything wanted has been added.
func (f *filter) sweep() {
	for i := range f.bits.Bits {
		var want uint64
		for j := range 64 {
			if f.refs[i*64+j] > 0 {
				want |= 1 << j
			}
		}
		atomic.StoreUint64(&f.bits.Bits[i], want)
	}
}
