// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/fairlead/fairlead/hack/bench/report"
)

type key struct {
	variant, metric string
	size            int
}

// figures are what was measured, round by round.
type figures struct {
	name    string
	rounds  int
	each    time.Duration
	cpu     int
	metrics []string
	stats   bool
	sizes   []int
	values  map[key][]float64
}

func newFigures(name string, rounds int, each time.Duration, cpu int, metrics []string) *figures {
	return &figures{name: name, rounds: rounds, each: each, cpu: cpu, metrics: metrics, values: map[key][]float64{}}
}

func (f *figures) add(variant, metric string, size int, v float64) {
	if !slices.Contains(f.sizes, size) {
		f.sizes = append(f.sizes, size)
	}
	k := key{variant, metric, size}
	f.values[k] = append(f.values[k], v)
}

func (f *figures) report() *report.Report {
	r := report.New(f.name)
	r.About = fmt.Sprintf("%d rounds of %s, client and server on CPU %d; figures and ratio: upper deciles; spread: distance of the quartiles of the rounds' ratios", f.rounds, f.each, f.cpu)
	for _, size := range f.sizes {
		for _, metric := range f.metrics {
			for _, v := range variants {
				if v.ref == "" {
					continue
				}
				ours, ref := f.values[key{v.name, metric, size}], f.values[key{v.ref, metric, size}]
				ratios := make([]float64, len(ours))
				for i := range ratios {
					ratios[i] = ours[i] / ref[i]
				}
				// What disturbs a slice only slows it: the fastest tenth shows the paths themselves.
				o, of := report.Quantile(ours, 0.9), report.Quantile(ref, 0.9)
				row := report.Figure(fmt.Sprintf("%s, %d services", v.name, size), metric, "1/s", o).Beside(v.ref, of, o/of).WithSpread(report.Quartiles(ratios))
				if v.target > 0 {
					row = row.AtLeast(v.target)
				}
				r.Add(row)
			}
		}
	}
	return r
}
