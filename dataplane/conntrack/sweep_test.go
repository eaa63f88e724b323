// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/loader"
)

func newTable(t *testing.T, tcp bool, size uint32) *Table {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 40, ValueSize: 56, MaxEntries: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	life, err := DefaultLifetimes()
	if err != nil {
		t.Fatal(err)
	}
	return &Table{Map: m, TCP: tcp, Lifetimes: life}
}

func addr(n byte) loader.BPFAddr { return loader.BPFAddr{B: [16]byte{15: n}} }

// add puts a connection client n -> service -> backend with both entries last seen at the given ticks.
func add(t *testing.T, tb *Table, n uint16, proto uint8, state loader.BPFCtState, fwd, reply uint32) {
	t.Helper()
	k := loader.BPFCtKey{Saddr: addr(1), Daddr: addr(2), Sport: n, Dport: 80, Proto: proto}
	e := loader.BPFCt{Saddr: addr(1), Daddr: addr(3), Sport: n, Dport: 8080, Last: fwd, State: uint8(state), Backend: uint32(n)}
	r := loader.BPFCt{Saddr: addr(2), Daddr: addr(1), Sport: 80, Dport: n, Last: reply, State: uint8(state), Flags: FlagReply, Backend: uint32(n)}
	if err := tb.Map.Put(k, e); err != nil {
		t.Fatal(err)
	}
	if err := tb.Map.Put(PairKey(&k, &e), r); err != nil {
		t.Fatal(err)
	}
}

func TestSweep(t *testing.T) {
	const now = 100000
	est, syn, closing := loader.BPFCtStateCtEstablished, loader.BPFCtStateCtNew, loader.BPFCtStateCtClosing
	for name, c := range map[string]struct {
		tcp        bool
		state      loader.BPFCtState
		fwd, reply uint32
		pressed    bool
		gone       bool
		stays      bool
	}{
		"established stays for hours":                 {true, est, now - 20000, now - 20000, false, false, true},
		"established ends after its lifetime":         {true, est, now - 20200, now - 20200, false, false, false},
		"one direction alive keeps both":              {true, est, now - 20200, now - 5, false, false, true},
		"closing ends soon":                           {true, closing, now - 11, now - 11, false, false, false},
		"unanswered stays a minute":                   {true, syn, now - 50, now - 50, false, false, true},
		"unanswered ends early under pressure":        {true, syn, now - 50, now - 50, true, false, false},
		"closed ends early under pressure":            {true, closing, now - 5, now - 5, true, false, false},
		"closed just now stays under pressure":        {true, closing, now - 1, now - 1, true, false, true},
		"established is safe under pressure":          {true, est, now - 20000, now - 20000, true, false, true},
		"a tick from the future is no age":            {true, closing, now + 3, now + 3, false, false, true},
		"TCP to a backend that left ends by itself":   {true, est, now - 1, now - 1, false, true, true},
		"datagrams to a backend that left end now":    {false, est, now - 1, now - 1, false, true, false},
		"a datagram stream stays for three minutes":   {false, est, now - 160, now - 160, false, false, true},
		"an unanswered datagram is kept half as long": {false, syn, now - 60, now - 60, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			proto := uint8(17)
			if c.tcp {
				proto = 6
			}
			tb := newTable(t, c.tcp, 64)
			tb.Gone = func(*loader.BPFCtKey, *loader.BPFCt) bool { return c.gone }
			add(t, tb, 1000, proto, c.state, c.fwd, c.reply)
			r, err := tb.Sweep(now, c.pressed)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 2, false: 0}[c.stays]; r.Entries != want || r.Removed != 2-want {
				t.Errorf("%d stay, %d removed, want %d to stay", r.Entries, r.Removed, want)
			}
		})
	}
}

// TestSweepLeftover: the forward entry was taken over by a newer connection to another backend; the old reply entry must not live off it.
func TestSweepLeftover(t *testing.T) {
	tb := newTable(t, true, 64)
	add(t, tb, 1000, 6, loader.BPFCtStateCtEstablished, 100000, 50)
	k := loader.BPFCtKey{Saddr: addr(1), Daddr: addr(2), Sport: 1000, Dport: 80, Proto: 6}
	if err := tb.Map.Put(k, loader.BPFCt{Saddr: addr(1), Daddr: addr(9), Sport: 1000, Dport: 8080, Last: 100000, State: 1}); err != nil {
		t.Fatal(err)
	}
	r, err := tb.Sweep(100001, false)
	if err != nil || r.Removed != 1 || r.Entries != 1 {
		t.Errorf("%+v %v, want the leftover removed and the new entry kept", r, err)
	}
}

func TestSweepMany(t *testing.T) {
	tb := newTable(t, true, 60000)
	for i := range uint16(20000) {
		state := loader.BPFCtStateCtEstablished
		if i%2 == 0 {
			state = loader.BPFCtStateCtClosing
		}
		add(t, tb, i, 6, state, 100, 100)
	}
	r, err := tb.Sweep(200, false)
	if err != nil || r.Entries != 20000 || r.Removed != 20000 {
		t.Fatalf("%+v %v, want half of 40000 entries removed", r, err)
	}
	t.Logf("40000 entries in %s", r.Took)
}

func TestUntilPressure(t *testing.T) {
	const full = 1000 // pressure from 750
	for name, c := range map[string]struct {
		entries, removed, before int
		since, want              time.Duration
	}{
		"nothing came":                      {100, 0, 100, 10 * time.Second, 10 * time.Second},
		"few come":                          {100, 50, 50, 10 * time.Second, 10 * time.Second},
		"as many as came fill it in 3.25 s": {100, 2000, 100, 10 * time.Second, 3250 * time.Millisecond},
		"a second at least":                 {700, 5000, 100, 10 * time.Second, time.Second},
		"pressed":                           {800, 0, 800, time.Second, time.Second},
		"fewer than before":                 {10, 0, 500, 10 * time.Second, 10 * time.Second},
	} {
		if got := untilPressure(Result{Entries: c.entries, Removed: c.removed, Capacity: full}, c.before, c.since, 10*time.Second); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
