// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// span is one CIDR and the place where the last allocation was.
type span struct {
	prefix netip.Prefix
	size   uint64 // addresses by number, 2^63 at most
	cursor uint64 // offset of the address given last
}

// minHostBits is the smallest range that leaves addresses beside the reserved ones.
const minHostBits = 3

func newSpan(p netip.Prefix) (*span, error) {
	bits := p.Addr().BitLen() - p.Bits()
	if bits < minHostBits {
		return nil, fmt.Errorf("pod CIDR %s is too small: it needs at least %d host bits", p, minHostBits)
	}
	return &span{prefix: p.Masked(), size: 1 << min(bits, 63)}, nil
}

// step moves to the next address and returns it.
func (s *span) step() netip.Addr {
	s.cursor = (s.cursor + 1) % s.size
	return s.at(s.cursor)
}

func (s *span) at(offset uint64) netip.Addr {
	if s.prefix.Addr().Is4() {
		b := s.prefix.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(offset))
		return netip.AddrFrom4(b)
	}
	b := s.prefix.Addr().As16() // a range of up to 2^63 addresses stays in the lower half: the prefix has its host bits zero
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+offset)
	return netip.AddrFrom16(b)
}

// reserved reports whether a is never given to a pod: the network's own address, the first one (the node's address in the pod network, see NodeAddr)
// and, in IPv4, the broadcast address.
func (s *span) reserved(a netip.Addr) bool {
	return a == s.prefix.Addr() || a == NodeAddr(s.prefix) || (a.Is4() && a == s.at(s.size-1))
}

// usable is the number of addresses that pods can have.
func (s *span) usable() uint64 {
	if s.prefix.Addr().Is4() {
		return s.size - 3
	}
	return s.size - 2
}

// NodeAddr is the address that the node itself has in the pod network: the first of its CIDR.
func NodeAddr(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }
