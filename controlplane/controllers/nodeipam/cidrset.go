// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// maxBlocks bounds how many node blocks one cluster CIDR is cut into: the bitmap of more would be large and nobody has so many nodes.
const maxBlocks = 1 << 20

// cidrSet hands out the blocks of one cluster CIDR, one per node. Blocks are given round-robin, so that a block released by a deleted node is not used
// again while remnants of that node's pods may still be around.
type cidrSet struct {
	base  netip.Prefix
	bits  int      // prefix length of a block
	owner []string // node of each block, "" when free, reserved for service ranges
	next  int
	free  int
}

const reserved = "\x00reserved"

// newCIDRSet cuts base into blocks of prefix length bits.
func newCIDRSet(base netip.Prefix, bits int) (*cidrSet, error) {
	n := bits - base.Bits()
	if n < 0 || bits > base.Addr().BitLen() || n > 20 {
		return nil, fmt.Errorf("node mask /%d does not fit the cluster CIDR %s: it must be at most 20 bits longer (%d blocks)", bits, base, maxBlocks)
	}
	return &cidrSet{base: base.Masked(), bits: bits, owner: make([]string, 1<<n), free: 1 << n}, nil
}

// block is the i-th block. It adds i to the address above the block's host bits.
func (s *cidrSet) block(i int) netip.Prefix {
	addr := s.base.Addr()
	if addr.Is4() {
		b := addr.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(i)<<(32-s.bits))
		return netip.PrefixFrom(netip.AddrFrom4(b), s.bits)
	}
	b := addr.As16()
	for bit := range 20 { // bit by bit: a block number may straddle the two 64-bit halves
		if i>>bit&1 == 1 {
			pos := s.bits - 1 - bit
			b[pos/8] |= 1 << (7 - pos%8)
		}
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), s.bits)
}

// index is the number of the block that addr lies in, false when it lies outside.
func (s *cidrSet) index(addr netip.Addr) (int, bool) {
	if !s.base.Contains(addr) {
		return 0, false
	}
	i, raw := 0, addr.AsSlice()
	for pos := s.base.Bits(); pos < s.bits; pos++ {
		i = i<<1 | int(raw[pos/8]>>(7-pos%8)&1)
	}
	return i, true
}

// occupy marks every block that p overlaps as node's. It returns the owner of a block that somebody else has, "" when there is none.
func (s *cidrSet) occupy(p netip.Prefix, node string) (conflict string) {
	if !s.base.Overlaps(p) {
		return ""
	}
	first, last := 0, len(s.owner)-1
	if p.Bits() > s.base.Bits() {
		first, _ = s.index(p.Masked().Addr())
		last = first
		if p.Bits() < s.bits {
			last = first + 1<<(s.bits-p.Bits()) - 1
		}
	}
	for i := first; i <= last; i++ {
		switch s.owner[i] {
		case "":
			s.owner[i] = node
			s.free--
		case node:
		default:
			conflict = s.owner[i]
		}
	}
	return conflict
}

// allocate gives node a free block, false when there is none.
func (s *cidrSet) allocate(node string) (netip.Prefix, bool) {
	for range s.owner {
		i := s.next
		s.next = (s.next + 1) % len(s.owner)
		if s.owner[i] == "" {
			s.owner[i] = node
			s.free--
			return s.block(i), true
		}
	}
	return netip.Prefix{}, false
}

// release frees the blocks of p that node has.
func (s *cidrSet) release(p netip.Prefix, node string) {
	if i, ok := s.index(p.Masked().Addr()); ok && s.owner[i] == node {
		s.owner[i] = ""
		s.free++
	}
}
