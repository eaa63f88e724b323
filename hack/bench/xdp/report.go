// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fairlead/fairlead/hack/bench/report"
)

// floor is the case that targets are multiples of.
const floor = "floor: parsed, one lookup"

// program is what the kernel made of one.
type program struct {
	verified uint32 // instructions that the verifier looked at
	bytes    uint32 // of machine code
}

// figures are what was measured, round by round.
type figures struct {
	rounds, repeat int
	values         map[string][]float64
	programs       map[string]program
}

func newFigures(rounds, repeat int) *figures {
	return &figures{rounds: rounds, repeat: repeat, values: map[string][]float64{}, programs: map[string]program{}}
}

func (f *figures) add(name string, ns float64) { f.values[name] = append(f.values[name], ns) }

// The cases that stand for a test run itself, and for making the packet.
const (
	uplinkEmpty, uplinkMade = "empty program", "packet made"
	podEmpty, podMade       = "from_pod, empty program", "from_pod, packet made"
)

// net returns the case's figures with the cost of making the packet replaced by that of an empty run.
func (f *figures) net(name string) []float64 {
	v := slices.Clone(f.values[name])
	emptyName, madeName := uplinkEmpty, uplinkMade
	if strings.HasPrefix(name, "from_pod") {
		emptyName, madeName = podEmpty, podMade
	}
	if name == emptyName {
		return v
	}
	made, empty := report.Quantile(f.values[madeName], 0.5), report.Quantile(f.values[emptyName], 0.5)
	for i := range v {
		v[i] += empty - made
	}
	return v
}

func (f *figures) report() *report.Report {
	r := report.New("xdp")
	r.About = fmt.Sprintf("%d rounds of %d packets; medians, without making the packet; spread: distance of the quartiles; targets are multiples of the floor", f.rounds, f.repeat)
	ref := report.Quantile(f.net(floor), 0.5)
	for _, c := range cases() {
		v := f.net(c.name)
		median := report.Quantile(v, 0.5)
		row := report.Figure(c.name, "time per packet", "ns", median).Beside(floor, ref, median/ref).WithSpread(report.Quartiles(v))
		if c.target > 0 {
			row = row.AtMost(c.target)
		}
		r.Add(row)
	}
	return r
}

// lookups is the share of an established packet's time that its map lookups take.
func (f *figures) lookups(alone, whole string) float64 {
	med := func(name string) float64 { return report.Quantile(f.net(name), 0.5) }
	return (med(alone) - med("parsed")) / med(whole)
}

// finish prints and writes the report, and prints what is of the programs and not of a case.
func (f *figures) finish(w io.Writer, dir string) error {
	if err := f.report().Finish(w, dir); err != nil {
		return err
	}
	for _, p := range []string{"TCP", "UDP"} {
		fmt.Fprintf(w, "%s, backend here: map lookups are %.0f%% of an established packet, with 64k flows %.0f%%\n", p,
			100*f.lookups(p+", map lookups alone, established", p+", backend here, established"),
			100*f.lookups(p+", map lookups alone, 64k flows", p+", backend here, established, 64k flows"))
	}
	for _, name := range []string{"bench_floor", "bench_uplink"} {
		p := f.programs[name]
		fmt.Fprintf(w, "%s: %d instructions verified, %d bytes of machine code\n", strings.TrimPrefix(name, "bench_"), p.verified, p.bytes)
	}
	return nil
}
