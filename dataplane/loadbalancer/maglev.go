// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import "math/bits"

// MaglevSizes are the table sizes to choose from: primes about a factor of four apart.
var MaglevSizes = []uint32{251, 1021, 4093, 16381, 65521}

// maglevSize returns the smallest size with at least 100 slots per backend, so that shares are within about 1% of even; the largest if none has.
// Every node computes the same size from the same backends, hence the same table.
func maglevSize(backends int) uint32 {
	for _, m := range MaglevSizes {
		if int(m) >= 100*backends {
			return m
		}
	}
	return MaglevSizes[len(MaglevSizes)-1]
}

// candidate is one backend in a selection table.
type candidate struct {
	row    uint32 // in the backends map: what the table lists
	hash   uint64 // of address and port: what decides the table, equal on all nodes
	weight uint32 // 1..255
}

// maglev fills a table of size m, a prime, by Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): each backend claims free slots in
// the order of its own permutation, in turn; in a turn a backend of the largest weight claims one slot and the others a share of one.
// m must be larger than the number of candidates, which must not be 0 and must be ordered equally on all nodes.
func maglev(m uint32, cands []candidate) []uint32 {
	type cursor struct{ next, skip, credit uint32 }
	table := make([]uint32, m)
	var taken [1 << 16 / 64]uint64 // m is below 2^16; small enough to stay in the first-level cache, unlike the table
	cur := make([]cursor, len(cands))
	var top uint32 = 1
	for i, c := range cands {
		h1, h2 := mix64(c.hash), mix64(c.hash^0x6d61676c65760000)
		cur[i] = cursor{next: uint32(h1 % uint64(m)), skip: uint32(h2%uint64(m-1)) + 1}
		top = max(top, c.weight)
	}
	for filled := uint32(0); ; {
		for i := range cur {
			c := &cur[i]
			c.credit += cands[i].weight
			if c.credit < top {
				continue
			}
			c.credit -= top
			slot, skip := c.next, c.skip
			for taken[slot/64%uint32(len(taken))]&(1<<(slot%64)) != 0 {
				slot += skip
				if rest := slot - m; slot >= m { // a conditional move: a branch would be guessed wrong every other time
					slot = rest
				}
			}
			taken[slot/64%uint32(len(taken))] |= 1 << (slot % 64)
			table[slot] = cands[i].row
			if c.next = slot + c.skip; c.next >= m {
				c.next -= m
			}
			if filled++; filled == m {
				return table
			}
		}
	}
}

// spread lists each candidate as often as its weight says, weights reduced by their greatest common divisor: the table of random choice.
func spread(cands []candidate) []uint32 {
	var gcd uint32
	for _, c := range cands {
		a, b := gcd, c.weight
		for b != 0 {
			a, b = b, a%b
		}
		gcd = a
	}
	table := make([]uint32, 0, len(cands))
	for _, c := range cands {
		for range c.weight / max(gcd, 1) {
			table = append(table, c.row)
		}
	}
	return table
}

// mix64 is a bijective mixer (the finalizer of SplitMix64).
func mix64(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// endpointHash hashes an address and port, the same on every node.
func endpointHash(addr [16]byte, port uint16) uint64 {
	h := uint64(port)
	for i := 0; i < 16; i += 8 {
		var w uint64
		for j := range 8 {
			w = w<<8 | uint64(addr[i+j])
		}
		h = mix64(bits.RotateLeft64(h, 29) ^ w)
	}
	return h
}
