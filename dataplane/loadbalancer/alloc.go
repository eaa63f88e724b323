// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"math/bits"
	"time"
)

// rows hands out numbers 1..n-1: backend rows and service-port ids. A freed number comes back only after Quarantine.
type rows struct {
	next, limit uint32
	free        []uint32
	used        uint32
	wait        []waiting
}

type waiting struct {
	n    uint32
	size uint32
	at   time.Time
}

func newRows(limit uint32) *rows { return &rows{next: 1, limit: limit} }

// take returns a free number, or 0 if there is none.
func (r *rows) take() uint32 {
	if n := len(r.free); n > 0 {
		row := r.free[n-1]
		r.free = r.free[:n-1]
		r.used++
		return row
	}
	if r.next >= r.limit {
		return 0
	}
	r.next++
	r.used++
	return r.next - 1
}

func (r *rows) release(n uint32, now time.Time) {
	if n != 0 {
		r.used--
		r.wait = append(r.wait, waiting{n: n, at: now})
	}
}

// settle returns what was released before now minus Quarantine to the free list.
func (r *rows) settle(now time.Time) {
	i := 0
	for ; i < len(r.wait) && now.Sub(r.wait[i].at) >= Quarantine; i++ {
		r.free = append(r.free, r.wait[i].n)
	}
	r.wait = r.wait[i:]
}

// runs hands out runs of slot elements in sizes of powers of two: one free list per size, larger runs split when a list is empty.
// Element 0 is never handed out.
type runs struct {
	next, limit uint32
	free        [32][]uint32
	used        uint32
	wait        []waiting
}

func newRuns(limit uint32) *runs { return &runs{next: 1, limit: limit} }

func class(size uint32) int { return bits.Len32(size - 1) }

// take returns the first element of a run of at least size elements, size > 0; 0 if there is no room.
func (r *runs) take(size uint32) uint32 {
	c := class(size)
	for k := c; k < len(r.free); k++ {
		n := len(r.free[k])
		if n == 0 {
			continue
		}
		base := r.free[k][n-1]
		r.free[k] = r.free[k][:n-1]
		for k > c {
			k--
			r.free[k] = append(r.free[k], base+1<<k)
		}
		r.used += 1 << c
		return base
	}
	if uint64(r.next)+1<<c > uint64(r.limit) {
		return 0
	}
	base := r.next
	r.next += 1 << c
	r.used += 1 << c
	return base
}

// reserve keeps everything below end out of use until it is released piece by piece: the runs an earlier agent left behind.
func (r *runs) reserve(end uint32) { r.next = max(r.next, min(end, r.limit)) }

func (r *runs) release(base, size uint32, now time.Time) {
	if base != 0 && size != 0 {
		c := class(size)
		r.used -= min(r.used, 1<<c)
		r.wait = append(r.wait, waiting{n: base, size: 1 << c, at: now})
	}
}

func (r *runs) settle(now time.Time) {
	i := 0
	for ; i < len(r.wait) && now.Sub(r.wait[i].at) >= Quarantine; i++ {
		c := class(r.wait[i].size)
		r.free[c] = append(r.free[c], r.wait[i].n)
	}
	r.wait = r.wait[i:]
}
