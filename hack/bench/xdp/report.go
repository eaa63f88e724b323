// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// floor is the case that targets are multiples of.
const floor = "floor: parsed, one lookup"

// row is one line of the report; the fields are the same in every benchmark.
type row struct {
	Case    string   `json:"case"`
	Metric  string   `json:"metric"`
	Unit    string   `json:"unit"`
	Ours    float64  `json:"ours"`
	RefName string   `json:"ref_name,omitempty"`
	Ref     *float64 `json:"ref"`
	Ratio   *float64 `json:"ratio"`
	Spread  float64  `json:"spread"` // distance of the quartiles by the median
	Target  *float64 `json:"target"`
	Holds   *bool    `json:"holds"`
}

// program is what the kernel made of one.
type program struct {
	verified uint32 // instructions that the verifier looked at
	bytes    uint32 // of machine code
}

type report struct {
	rounds, repeat int
	values         map[string][]float64
	programs       map[string]program
}

func newReport(rounds, repeat int) *report {
	return &report{rounds: rounds, repeat: repeat, values: map[string][]float64{}, programs: map[string]program{}}
}

func (r *report) add(name string, ns float64) { r.values[name] = append(r.values[name], ns) }

func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[int(q*float64(len(s)-1)+0.5)]
}

// The cases that stand for a test run itself, and for making the packet.
const (
	uplinkEmpty, uplinkMade = "empty program", "packet made"
	podEmpty, podMade       = "from_pod, empty program", "from_pod, packet made"
)

// net returns the case's figures with the cost of making the packet replaced by that of an empty run.
func (r *report) net(name string) []float64 {
	v := slices.Clone(r.values[name])
	emptyName, madeName := uplinkEmpty, uplinkMade
	if strings.HasPrefix(name, "from_pod") {
		emptyName, madeName = podEmpty, podMade
	}
	if name == emptyName {
		return v
	}
	made, empty := quantile(r.values[madeName], 0.5), quantile(r.values[emptyName], 0.5)
	for i := range v {
		v[i] += empty - made
	}
	return v
}

func (r *report) rows() []row {
	ref := quantile(r.net(floor), 0.5)
	var out []row
	for _, c := range cases() {
		v := r.net(c.name)
		o := quantile(v, 0.5)
		ratio := o / ref
		line := row{
			Case: c.name, Metric: "time per packet", Unit: "ns", Ours: o, RefName: floor, Ref: &ref, Ratio: &ratio,
			Spread: (quantile(v, 0.75) - quantile(v, 0.25)) / o,
		}
		if c.target > 0 {
			holds := ratio <= c.target
			line.Target, line.Holds = &c.target, &holds
		}
		out = append(out, line)
	}
	return out
}

// lookups is the share of an established packet's time that its map lookups take.
func (r *report) lookups(alone, whole string) float64 {
	med := func(name string) float64 { return quantile(r.net(name), 0.5) }
	return (med(alone) - med("parsed")) / med(whole)
}

func (r *report) write(w io.Writer, dir string) error {
	var u unix.Utsname
	_ = unix.Uname(&u)
	host := fmt.Sprintf("Linux %s, %d CPUs, %s", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), runtime.GOARCH)
	rows := r.rows()
	fmt.Fprintf(w, "%s; %d rounds of %d packets; median, without making the packet; targets are multiples of the floor\n", host, r.rounds, r.repeat)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CASE\tNS\tBY FLOOR\tSPREAD\tTARGET\tHOLDS")
	for _, x := range rows {
		target, holds := "-", "-"
		if x.Target != nil {
			target, holds = fmt.Sprintf("<= %.1f", *x.Target), map[bool]string{true: "yes", false: "no"}[*x.Holds]
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.2f\t%.0f%%\t%s\t%s\n", x.Case, x.Ours, *x.Ratio, 100*x.Spread, target, holds)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range []string{"TCP", "UDP"} {
		fmt.Fprintf(w, "%s, backend here: map lookups are %.0f%% of an established packet, with 64k flows %.0f%%\n", p,
			100*r.lookups(p+", map lookups alone, established", p+", backend here, established"),
			100*r.lookups(p+", map lookups alone, 64k flows", p+", backend here, established, 64k flows"))
	}
	for _, name := range []string{"bench_floor", "bench_uplink"} {
		p := r.programs[name]
		fmt.Fprintf(w, "%s: %d instructions verified, %d bytes of machine code\n", strings.TrimPrefix(name, "bench_"), p.verified, p.bytes)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	body, err := json.MarshalIndent(map[string]any{"bench": "xdp", "host": host, "rows": rows}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "xdp.json"), append(body, '\n'), 0o644)
}
