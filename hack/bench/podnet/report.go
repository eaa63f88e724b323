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
	"time"

	"golang.org/x/sys/unix"
)

// row is one line of the report; the fields are the same in every benchmark.
type row struct {
	Case    string   `json:"case"`
	Metric  string   `json:"metric"`
	Unit    string   `json:"unit"`
	Ours    float64  `json:"ours"`
	RefName string   `json:"ref_name,omitempty"`
	Ref     *float64 `json:"ref"`
	Ratio   *float64 `json:"ratio"`
	Spread  float64  `json:"spread"` // (max-min)/median of ours over the rounds
	Target  *float64 `json:"target"`
	Holds   *bool    `json:"holds"`
}

type report struct {
	rounds int
	each   time.Duration
	values map[[3]string][]float64 // place, network, metric
}

func newReport(rounds int, each time.Duration) *report {
	return &report{rounds: rounds, each: each, values: map[[3]string][]float64{}}
}

func (r *report) add(p path, m metric, v float64) {
	k := [3]string{p.place, p.name, m.name}
	r.values[k] = append(r.values[k], v)
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// comparison is one of the issue's: ours against a reference; target 0: none, the number is for information.
type comparison struct {
	place, ours, refPlace, ref string
	target                     float64
}

var comparisons = []comparison{
	{"one node", "fairlead", "one node", bridge, 1.2},
	{"one node", "fairlead", "one node", bare, 0.95},
	{"two nodes", "fairlead", "two nodes", bridge, 0},
	{"two nodes", "fairlead", "one node", bare, 0},
	{"two nodes", "fairlead VXLAN", "two nodes", bridge, 0},
}

func (r *report) rows() []row {
	var out []row
	for _, c := range comparisons {
		for _, m := range metrics {
			ours, ref := r.values[[3]string{c.place, c.ours, m.name}], r.values[[3]string{c.refPlace, c.ref, m.name}]
			if m.kind == "cni" || len(ours) == 0 || len(ref) == 0 {
				continue
			}
			// The ratio of each round's pair, measured within seconds of each other; then the median: what else the machine does in a round falls on both.
			ratios := make([]float64, min(len(ours), len(ref)))
			for i := range ratios {
				ratios[i] = ours[i] / ref[i]
			}
			o, f, q := median(ours), median(ref), median(ratios)
			line := row{Case: c.place + ", " + c.ours, Metric: m.name, Unit: m.unit, Ours: o, RefName: c.ref, Ref: &f, Ratio: &q, Spread: (slices.Max(ours) - slices.Min(ours)) / o}
			if c.target > 0 {
				holds := q >= c.target
				line.Target, line.Holds = &c.target, &holds
			}
			out = append(out, line)
		}
	}
	ours, ref := r.values[[3]string{"one node", "fairlead", "CNI ADD"}], r.values[[3]string{"one node", bridge, "CNI ADD"}]
	if len(ours) > 0 && len(ref) > 0 {
		o, f, target := median(ours), median(ref), 15.0
		q, holds := o/f, o <= target
		out = append(out, row{Case: "CNI ADD, fairlead", Metric: "p50", Unit: "ms", Ours: o, RefName: bridge, Ref: &f, Ratio: &q, Spread: (slices.Max(ours) - slices.Min(ours)) / o, Target: &target, Holds: &holds})
	}
	return out
}

func (r *report) write(w io.Writer, dir string) error {
	var u unix.Utsname
	unix.Uname(&u)
	host := fmt.Sprintf("Linux %s, %d CPUs, %s", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), runtime.GOARCH)
	rows := r.rows()
	fmt.Fprintf(w, "%s; %d rounds of %s; ratio: median over the rounds\n", host, r.rounds, r.each)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CASE\tMETRIC\tOURS\tREFERENCE\t\tUNIT\tRATIO\tSPREAD\tTARGET\tHOLDS")
	for _, x := range rows {
		target, holds := "-", "-"
		if x.Target != nil {
			target, holds = fmt.Sprintf(">= %.2f", *x.Target), map[bool]string{true: "yes", false: "no"}[*x.Holds]
			if x.Unit == "ms" { // a time, not a ratio
				target = fmt.Sprintf("<= %.0f ms", *x.Target)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.0f%%\t%s\t%s\n", x.Case, x.Metric, number(x.Ours), x.RefName, number(*x.Ref), x.Unit, *x.Ratio, 100*x.Spread, target, holds)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	body, err := json.MarshalIndent(map[string]any{"bench": "podnet", "host": host, "rows": rows}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "podnet.json"), append(body, '\n'), 0o644)
}

func number(v float64) string {
	if v >= 1000 {
		return strings.TrimSuffix(fmt.Sprintf("%.0f", v), ".")
	}
	return fmt.Sprintf("%.2f", v)
}
