// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/fairlead/fairlead/hack/bench/report"
)

// figures are what was measured, round by round.
type figures struct {
	rounds int
	each   time.Duration
	values map[[3]string][]float64 // place, network, metric
}

func newFigures(rounds int, each time.Duration) *figures {
	return &figures{rounds: rounds, each: each, values: map[[3]string][]float64{}}
}

func (f *figures) add(p path, m metric, v float64) {
	k := [3]string{p.place, p.name, m.name}
	f.values[k] = append(f.values[k], v)
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

func (f *figures) report() *report.Report {
	r := report.New("podnet")
	r.About = fmt.Sprintf("%d rounds of %s; medians; ratio: median of the rounds' ratios", f.rounds, f.each)
	for _, c := range comparisons {
		for _, m := range metrics {
			ours, ref := f.values[[3]string{c.place, c.ours, m.name}], f.values[[3]string{c.refPlace, c.ref, m.name}]
			if m.kind == "cni" || len(ours) == 0 || len(ref) == 0 {
				continue
			}
			// Each round's pair was measured within seconds of each other: what else the machine does falls on both.
			row := report.Figure(c.place+", "+c.ours, m.name, m.unit, ours...).Against(c.ref, ours, ref)
			if c.target > 0 {
				row = row.AtLeast(c.target)
			}
			r.Add(row)
		}
	}
	ours, ref := f.values[[3]string{"one node", "fairlead", "CNI ADD"}], f.values[[3]string{"one node", bridge, "CNI ADD"}]
	if len(ours) > 0 && len(ref) > 0 {
		r.Add(report.Figure("CNI ADD, fairlead", "p50", "ms", ours...).AtMost(15).Against(bridge, ours, ref)) // a time, not a ratio
	}
	return r
}
