// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"math"
	"net/netip"
	"testing"
	"time"
)

func candidates(n int, weight func(int) uint32) []candidate {
	out := make([]candidate, n)
	for i := range out {
		a := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
		out[i] = candidate{row: uint32(i + 1), hash: endpointHash(a.As16(), 8080), weight: weight(i)}
	}
	return out
}

func one(int) uint32 { return 1 }

func TestMaglevEven(t *testing.T) {
	for name, weight := range map[string]func(int) uint32{"equal": one, "weighted": func(i int) uint32 { return uint32(1 + i%4) }} {
		for _, n := range []int{2, 3, 10, 100, 500} {
			cands := candidates(n, weight)
			size := maglevSize(n)
			count := map[uint32]int{}
			for _, row := range maglev(size, cands) {
				count[row]++
			}
			var total uint32
			for _, c := range cands {
				total += c.weight
			}
			for _, c := range cands {
				want := float64(size) * float64(c.weight) / float64(total)
				// One slot more or less is 5% of a share below 20 slots.
				if got := float64(count[c.row]); math.Abs(got-want) > max(0.05*want, 2) {
					t.Errorf("%s, %d backends: weight %d has %v of %d slots, want %.0f within 5%%", name, n, c.weight, got, size, want)
				}
			}
		}
	}
}

// TestMaglevDisruption: when one of 100 backends leaves, fewer than 2% of the other backends' slots change.
func TestMaglevDisruption(t *testing.T) {
	for _, size := range MaglevSizes[3:] {
		cands := candidates(100, one)
		before := maglev(size, cands)
		for _, gone := range []int{0, 50, 99} {
			rest := append(append([]candidate(nil), cands[:gone]...), cands[gone+1:]...)
			after := maglev(size, rest)
			moved := 0
			for i := range before {
				if before[i] != cands[gone].row && before[i] != after[i] {
					moved++
				}
			}
			if share := float64(moved) / float64(size); share >= 0.02 {
				t.Errorf("size %d: without backend %d, %.2f%% of the others' slots moved", size, gone, 100*share)
			}
		}
	}
}

// TestMaglevSame: the table depends on what the backends are, not on a node's row numbers.
func TestMaglevSame(t *testing.T) {
	a, b := candidates(7, one), candidates(7, one)
	for i := range b {
		b[i].row += 1000
	}
	x, y := maglev(1021, a), maglev(1021, b)
	for i := range x {
		if x[i]+1000 != y[i] {
			t.Fatalf("slot %d: %d and %d", i, x[i], y[i])
		}
	}
}

func TestMaglevExtremes(t *testing.T) {
	for _, c := range []struct {
		n      int
		weight func(int) uint32
	}{{1, one}, {250, one}, {65000, one}, {3, func(i int) uint32 { return []uint32{1, 255, 255}[i] }}} {
		size := MaglevSizes[0]
		if c.n > 200 {
			size = MaglevSizes[4]
		}
		count := map[uint32]bool{}
		for _, row := range maglev(size, candidates(c.n, c.weight)) {
			count[row] = true
		}
		if count[0] || len(count) != c.n && c.weight(0) == c.weight(c.n-1) {
			t.Errorf("%d backends: %d in the table, free slot: %v", c.n, len(count), count[0])
		}
	}
}

func TestSpread(t *testing.T) {
	got := spread([]candidate{{row: 1, weight: 4}, {row: 2, weight: 2}})
	if len(got) != 3 || got[0] != 1 || got[1] != 1 || got[2] != 2 {
		t.Errorf("weights 4:2 give %v, want two slots and one", got)
	}
}

// BenchmarkMaglev builds a table of 65,521 entries for 100 backends; the target is 2 ms.
func BenchmarkMaglev(b *testing.B) {
	cands := candidates(100, one)
	began := time.Now()
	for b.Loop() {
		maglev(65521, cands)
	}
	b.ReportMetric(float64(time.Since(began).Microseconds())/float64(b.N)/1000, "ms/table")
}
