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
	Spread  float64  `json:"spread"` // distance of the quartiles by the median, of the rounds' ratios
	Median  float64  `json:"median"` // of the ratios round by round
	Target  *float64 `json:"target"`
	Holds   *bool    `json:"holds"`
}

type key struct {
	variant, metric string
	size            int
}

type report struct {
	name    string
	rounds  int
	each    time.Duration
	cpu     int
	metrics []string
	stats   bool
	sizes   []int
	values  map[key][]float64
}

func newReport(name string, rounds int, each time.Duration, cpu int, metrics []string) *report {
	return &report{name: name, rounds: rounds, each: each, cpu: cpu, metrics: metrics, values: map[key][]float64{}}
}

func (r *report) add(variant, metric string, size int, v float64) {
	if !slices.Contains(r.sizes, size) {
		r.sizes = append(r.sizes, size)
	}
	k := key{variant, metric, size}
	r.values[k] = append(r.values[k], v)
}

func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[int(q*float64(len(s)-1)+0.5)]
}

func (r *report) rows() []row {
	var out []row
	for _, size := range r.sizes {
		for _, metric := range r.metrics {
			for _, v := range variants {
				if v.ref == "" {
					continue
				}
				ours, ref := r.values[key{v.name, metric, size}], r.values[key{v.ref, metric, size}]
				ratios := make([]float64, len(ours))
				for i := range ratios {
					ratios[i] = ours[i] / ref[i]
				}
				// What disturbs a slice only slows it: the fastest tenth shows the paths themselves.
				o, f := quantile(ours, 0.9), quantile(ref, 0.9)
				q := o / f
				line := row{
					Case: fmt.Sprintf("%s, %d services", v.name, size), Metric: metric, Unit: "1/s", Ours: o, RefName: v.ref, Ref: &f, Ratio: &q,
					Spread: (quantile(ratios, 0.75) - quantile(ratios, 0.25)) / quantile(ratios, 0.5), Median: quantile(ratios, 0.5),
				}
				if v.target > 0 {
					holds := q >= v.target
					line.Target, line.Holds = &v.target, &holds
				}
				out = append(out, line)
			}
		}
	}
	return out
}

func (r *report) write(w io.Writer, dir string) error {
	var u unix.Utsname
	_ = unix.Uname(&u)
	host := fmt.Sprintf("Linux %s, %d CPUs, %s", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), runtime.GOARCH)
	rows := r.rows()
	fmt.Fprintf(w, "%s; %d rounds of %s, client and server on CPU %d; ratio of the upper deciles; median and quartile distance of the ratios round by round\n",
		host, r.rounds, r.each, r.cpu)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CASE\tMETRIC\tRATE\tREFERENCE\tRATE\tRATIO\tMEDIAN\tSPREAD\tTARGET\tHOLDS")
	for _, x := range rows {
		target, holds := "-", "-"
		if x.Target != nil {
			target, holds = fmt.Sprintf(">= %.2f", *x.Target), map[bool]string{true: "yes", false: "no"}[*x.Holds]
		}
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%s\t%.0f\t%.3f\t%.3f\t%.0f%%\t%s\t%s\n", x.Case, x.Metric, x.Ours, x.RefName, *x.Ref, *x.Ratio, x.Median, 100*x.Spread, target, holds)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	body, err := json.MarshalIndent(map[string]any{"bench": r.name, "host": host, "rows": rows}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, r.name+".json"), append(body, '\n'), 0o644)
}
