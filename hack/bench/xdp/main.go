// SPDX-License-Identifier: Apache-2.0

// Command xdp measures what the XDP program of the uplinks costs per packet, by BPF_PROG_TEST_RUN, beside a floor: a program that parses the packet and does one hash
// lookup (bpf/bench/xdp.c). Each repeat begins with a packet made anew; what making it costs is measured too and subtracted, so that a figure is that of a
// plain test run. It prints a table and writes out/bench/xdp.json. Needs root; works in a network namespace of its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
)

func main() {
	rounds := flag.Int("rounds", 25, "rounds; each measures every case once")
	repeat := flag.Int("repeat", 32768, "packets of one measurement")
	cpu := flag.Int("cpu", runtime.NumCPU()-1, "CPU to measure on")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	flag.Parse()
	if err := run(*rounds, *repeat, *cpu, *out); err != nil {
		fmt.Fprintln(os.Stderr, "xdp:", err)
		os.Exit(1)
	}
}

func run(rounds, repeat, cpu int, out string) (err error) {
	s := new(scope)
	defer s.end()
	defer func() {
		switch f := recover().(type) {
		case nil:
		case failure:
			err = f.error
		default:
			panic(f)
		}
	}()
	ns := nettest.NewNS(s, "bench-xdp")
	ns.Do(func() {
		var r *rig
		if err = pin(cpu); err != nil {
			return
		}
		if r, err = newRig(s, ns); err == nil {
			err = r.measure(rounds, repeat, out)
		}
	})
	return err
}

// measured is one case: a program, the packets it gets, and what they find.
type measured struct {
	name    string
	program string
	to      netip.AddrPort
	proto   uint8
	ack     bool
	flows   uint32
	fresh   bool    // every packet begins a connection
	crowd   bool    // beside 65,536 others
	target  float64 // times the floor; 0: none
	pod     bool    // by the pod's program instead of the uplink's
}

const many = 65536

// cases lists what is measured. The floor has one flow throughout.
func cases() []measured {
	all := []measured{
		{name: uplinkEmpty, program: "bench_empty", to: near4, proto: tcp, ack: true, flows: 1},
		{name: uplinkMade, program: "bench_restore", to: near4, proto: tcp, ack: true, flows: 1},
		{name: "parsed", program: "bench_parse", to: near4, proto: tcp, ack: true, flows: 1},
		{name: floor, program: "bench_floor", to: near4, proto: tcp, ack: true, flows: 1},
		{name: "no service", program: "bench_uplink", to: elsewhere, proto: tcp, ack: true, flows: 1, target: 1.3},
		{name: "no service, 64k flows", program: "bench_uplink", to: elsewhere, proto: tcp, ack: true, flows: many, target: 1.3},
		{name: "to the node itself", program: "bench_uplink", to: self, proto: tcp, ack: true, flows: 1},
	}
	for _, p := range []struct {
		name  string
		proto uint8
	}{{"TCP", tcp}, {"UDP", udp}} {
		for _, at := range []struct {
			name string
			to   netip.AddrPort
		}{{"backend here", near4}, {"backend elsewhere", far4}, {"NodePort, backend elsewhere", farNode}} {
			name := p.name + ", " + at.name
			all = append(all,
				measured{name: name + ", established", program: "bench_uplink", to: at.to, proto: p.proto, ack: true, flows: 1, target: 2.4},
				measured{name: name + ", established, 64k flows", program: "bench_uplink", to: at.to, proto: p.proto, ack: true, flows: many, target: 4},
				measured{name: name + ", new", program: "bench_uplink", to: at.to, proto: p.proto, flows: 1 << 31, fresh: true, target: 4},
			)
		}
		all = append(all,
			measured{name: p.name + ", map lookups alone, established", program: "bench_lookups", to: near4, proto: p.proto, ack: true, flows: 1},
			measured{name: p.name + ", map lookups alone, 64k flows", program: "bench_lookups", to: near4, proto: p.proto, ack: true, flows: many},
			measured{name: p.name + ", backend here, new, 64k flows", program: "bench_uplink", to: near4, proto: p.proto, flows: 1 << 31, fresh: true, crowd: true, target: 4},
		)
	}
	const bench = "bench_pod"
	all = append(all,
		measured{name: podEmpty, program: "bench_empty", pod: true, to: podHere, proto: tcp, flows: 1, ack: true},
		measured{name: podMade, program: "bench_restore", pod: true, to: podHere, proto: tcp, flows: 1, ack: true},
		measured{name: "from_pod, TCP, pod here", program: bench, pod: true, to: podHere, proto: tcp, flows: 1, ack: true},
		measured{name: "from_pod, TCP, service, backend here, established", program: bench, pod: true, to: near4, proto: tcp, flows: 1, ack: true},
		measured{name: "from_pod, TCP, service, backend here, 16k flows", program: bench, pod: true, to: near4, proto: tcp, flows: 1 << 14, ack: true},
		measured{name: "from_pod, TCP, service, backend here, new", program: bench, pod: true, to: near4, proto: tcp, flows: 1 << 31, fresh: true},
	)
	return append(all,
		measured{name: "TCP, IPv6, backend here, established", program: "bench_uplink", to: near6, proto: tcp, ack: true, flows: 1, target: 2.4},
		measured{name: "TCP, IPv6, backend elsewhere, established", program: "bench_uplink", to: far6, proto: tcp, ack: true, flows: 1, target: 2.4},
	)
}

func (r *rig) measure(rounds, repeat int, out string) error {
	rep := newFigures(rounds, repeat)
	for range rounds {
		for _, c := range cases() {
			ns, err := r.once(&c, repeat)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			rep.add(c.name, ns)
		}
	}
	for name, p := range r.uplink.Programs {
		info, err := p.Info()
		if err != nil {
			return err
		}
		n, _ := info.VerifiedInstructions()
		size, err := info.JitedSize()
		if err != nil {
			size = 0 // hidden by kernel.kptr_restrict
		}
		rep.programs[name] = program{verified: n, bytes: size}
	}
	return rep.finish(os.Stdout, out)
}

// once measures one case once: ns per packet, that of making it included. Connections that the packets need are there before.
func (r *rig) once(c *measured, repeat int) (float64, error) {
	if err := r.forget(); err != nil {
		return 0, err
	}
	coll, main := r.uplink, "bench_uplink"
	if c.pod {
		coll, main = r.pod, "bench_pod"
	}
	prog := coll.Programs[c.program]
	if c.crowd {
		first := *c
		first.flows = many
		if err := r.set(&first, 0); err != nil {
			return 0, err
		}
		if _, _, err := prog.Benchmark(r.frame, many, nil); err != nil {
			return 0, err
		}
	}
	if !c.fresh && c.program != "bench_empty" && c.program != "bench_restore" {
		// Every flow's first packet, then one in answer to make it established.
		begin := *c
		begin.ack = false
		if err := r.set(&begin, 0); err != nil {
			return 0, err
		}
		if _, _, err := coll.Programs[main].Benchmark(r.frame, int(c.flows), nil); err != nil {
			return 0, err
		}
		if err := r.answered(); err != nil {
			return 0, err
		}
	}
	start := uint32(0)
	if c.fresh && c.crowd {
		start = many
	}
	if err := r.set(c, start); err != nil {
		return 0, err
	}
	verdict, took, err := prog.Benchmark(r.frame, repeat, nil)
	if err != nil {
		return 0, err
	}
	if want := r.verdict(c); verdict != want {
		return 0, fmt.Errorf("verdict %d, not %d", verdict, want)
	}
	return float64(took) / float64(time.Nanosecond), nil
}

// verdict is what the program must say to the packets of c: a case that takes another way than it says measures nothing.
func (r *rig) verdict(c *measured) uint32 {
	const pass, redirect, podNext, podRedirect = 2, 4, 1<<32 - 1, 7
	if c.pod {
		if c.program == "bench_pod" {
			return podRedirect
		}
		return podNext
	}
	if c.program == "bench_uplink" && (c.to == far4 || c.to == far6 || c.to == farNode) {
		return redirect
	}
	return pass
}

// forget empties the connection tables.
func (r *rig) forget() error {
	for _, name := range []string{"ct_tcp", "ct_any"} {
		m := r.uplink.Maps[name]
		keys, values := make([]loader.BPFCtKey, 4096), make([]loader.BPFCt, 4096)
		var cursor ebpf.MapBatchCursor
		for {
			_, err := m.BatchLookupAndDelete(&cursor, keys, values, nil)
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				break
			}
			if err != nil {
				return fmt.Errorf("empty %s: %w", name, err)
			}
		}
	}
	return nil
}
