// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// PressureAt is the share of a table's capacity from which unanswered and closed connections are removed early.
const PressureAt = 0.75

// Bits of loader.BPFCt.Flags and states, as bpf/lib/types.h has them.
const (
	FlagReply   = 0x01
	FlagSNAT    = 0x02
	FlagFINSeen = 0x04
	FlagAssured = 0x08
	FlagOnNode  = 0x10
	FlagDSR     = 0x20
)

// Lifetimes are how long an entry lives without packets, in ticks of 2^30 ns.
type Lifetimes struct {
	TCPSyn, TCPEstablished, TCPClosing, UDP, UDPStream uint32
}

// DefaultLifetimes reads the lifetimes that the programs are built with.
func DefaultLifetimes() (Lifetimes, error) {
	var l Lifetimes
	spec, err := loader.LoadUplink()
	if err != nil {
		return l, err
	}
	for name, v := range map[string]*uint32{
		"cfg_ct_tcp_syn": &l.TCPSyn, "cfg_ct_tcp_established": &l.TCPEstablished, "cfg_ct_tcp_closing": &l.TCPClosing,
		"cfg_ct_udp": &l.UDP, "cfg_ct_udp_stream": &l.UDPStream,
	} {
		if spec.Variables[name] == nil {
			return l, fmt.Errorf("the packet programs lack the constant %s", name)
		}
		if err := spec.Variables[name].Get(v); err != nil {
			return l, fmt.Errorf("constant %s: %w", name, err)
		}
	}
	return l, nil
}

// of returns the lifetime of an entry.
func (l Lifetimes) of(e *loader.BPFCt, tcp bool) uint32 {
	switch state := loader.BPFCtState(e.State); {
	case tcp && state == loader.BPFCtStateCtClosing:
		return l.TCPClosing
	case tcp && state == loader.BPFCtStateCtNew:
		return l.TCPSyn
	case tcp:
		return l.TCPEstablished
	case state == loader.BPFCtStateCtNew:
		return l.UDP
	}
	return l.UDPStream
}

// Now returns the datapath's clock: CLOCK_MONOTONIC in ticks of 2^30 ns.
func Now() uint32 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0 // it cannot fail
	}
	return uint32(uint64(ts.Nano()) >> 30)
}

// Table is one connection table and how it is swept. Not safe for concurrent use.
type Table struct {
	Map       *ebpf.Map
	TCP       bool
	Lifetimes Lifetimes
	// Gone says whether a connection's backend or service has left; nil: never.
	Gone func(k *loader.BPFCtKey, e *loader.BPFCt) bool

	keys   []loader.BPFCtKey
	values []loader.BPFCt
	drop   []loader.BPFCtKey
}

// Result is what a sweep found and did.
type Result struct {
	Entries  int // that stay
	Removed  int
	New      int // of those that stay: only one direction seen
	Capacity int
	Took     time.Duration
}

// chunk bounds what one system call reads, so that a walk never holds a bucket for long.
const chunk = 4096

// Sweep walks the table once and removes what has ended, at tick now. pressed: the table was found nearly full before.
func (t *Table) Sweep(now uint32, pressed bool) (Result, error) {
	began := time.Now()
	r := Result{Capacity: int(t.Map.MaxEntries())}
	if t.keys == nil {
		t.keys, t.values = make([]loader.BPFCtKey, chunk), make([]loader.BPFCt, chunk)
	}
	t.drop = t.drop[:0]
	var cursor ebpf.MapBatchCursor
	for {
		n, err := t.Map.BatchLookup(&cursor, t.keys, t.values, nil)
		for i := range n {
			if t.ended(&t.keys[i], &t.values[i], now, pressed) {
				t.drop = append(t.drop, t.keys[i])
				continue
			}
			r.Entries++
			if loader.BPFCtState(t.values[i].State) == loader.BPFCtStateCtNew {
				r.New++
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		if err != nil {
			return r, fmt.Errorf("walk connection table: %w", err)
		}
	}
	// Deleting while walking would make the walk skip entries.
	for _, k := range t.drop {
		switch err := t.Map.Delete(k); {
		case err == nil:
			r.Removed++
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return r, fmt.Errorf("remove connection: %w", err)
		}
	}
	r.Took = time.Since(began)
	return r, nil
}

// ended decides whether an entry goes. A direction that is silent stays while the other is not.
func (t *Table) ended(k *loader.BPFCtKey, e *loader.BPFCt, now uint32, pressed bool) bool {
	if !t.TCP && t.Gone != nil && t.Gone(k, e) {
		return true
	}
	if !t.silent(e, now, pressed) {
		return false
	}
	var pair loader.BPFCt
	pk := PairKey(k, e)
	if t.Map.Lookup(pk, &pair) != nil {
		return true
	}
	// A pair that points elsewhere belongs to a later connection: this entry is a leftover.
	return PairKey(&pk, &pair) != *k || t.silent(&pair, now, pressed)
}

func (t *Table) silent(e *loader.BPFCt, now uint32, pressed bool) bool {
	life := t.Lifetimes.of(e, t.TCP)
	if pressed && loader.BPFCtState(e.State) != loader.BPFCtStateCtEstablished {
		life /= 10
	}
	// Programs may have written a later tick than now.
	return int32(now-e.Last) > int32(life)
}

// PairKey returns the key of the other direction's entry.
func PairKey(k *loader.BPFCtKey, e *loader.BPFCt) loader.BPFCtKey {
	return loader.BPFCtKey{Saddr: e.Daddr, Daddr: e.Saddr, Sport: e.Dport, Dport: e.Sport, Proto: k.Proto}
}
