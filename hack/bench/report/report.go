// SPDX-License-Identifier: Apache-2.0

// Package report is how every benchmark says what it measured: a table for people and out/bench/NAME.json for programs.
package report

import (
	"cmp"
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

// Row is one figure.
type Row struct {
	Case    string   `json:"case"`
	Metric  string   `json:"metric"`
	Unit    string   `json:"unit"`
	Ours    float64  `json:"ours"`
	RefName string   `json:"ref_name,omitempty"`
	Ref     *float64 `json:"ref"`    // the same figure of what a user would pick instead, in the same run
	Ratio   *float64 `json:"ratio"`  // ours to ref
	Spread  float64  `json:"spread"` // (max-min)/median of ours over the rounds
	Target  *float64 `json:"target"` // of Ratio where there is a reference, else of Ours
	Holds   *bool    `json:"holds"`

	below bool // the target is an upper bound
}

// Figure returns a row without a reference: the median of the rounds.
func Figure(name, metric, unit string, rounds ...float64) Row {
	return Row{Case: name, Metric: metric, Unit: unit, Ours: Median(rounds), Spread: Spread(rounds)}
}

// Against returns r compared with a reference's rounds. Rounds are paired, because the machine's speed drifts: the ratio is the median of the
// rounds' ratios.
func (r Row) Against(name string, ours, ref []float64) Row {
	ratios := make([]float64, min(len(ours), len(ref)))
	for i := range ratios {
		ratios[i] = ours[i] / ref[i]
	}
	median, ratio := Median(ref), Median(ratios)
	return r.Beside(name, median, ratio)
}

// Beside is Against for a benchmark that has its own way to a reference's figure and to the ratio.
func (r Row) Beside(name string, ref, ratio float64) Row {
	r.RefName, r.Ref, r.Ratio = name, &ref, &ratio
	return r
}

// WithSpread replaces the spread, for a benchmark whose rounds have outliers: it says in its report's About what the spread is instead.
func (r Row) WithSpread(spread float64) Row { r.Spread = spread; return r }

// AtMost sets an upper bound as target, AtLeast a lower one: of the ratio when the row has been compared before, else of the figure itself.
func (r Row) AtMost(target float64) Row  { r.below = true; return r.judged(target) }
func (r Row) AtLeast(target float64) Row { r.below = false; return r.judged(target) }

func (r Row) judged(target float64) Row {
	value := r.Ours
	if r.Ratio != nil {
		value = *r.Ratio
	}
	holds := value >= target
	if r.below {
		holds = value <= target
	}
	r.Target, r.Holds = &target, &holds
	return r
}

// Report is a benchmark's result.
type Report struct {
	Bench string `json:"bench"`
	Host  string `json:"host"`
	Rows  []Row  `json:"rows"`

	About string `json:"-"` // how it was measured, for people: rounds, statistics
}

// New returns an empty report of this machine.
func New(bench string) *Report { return &Report{Bench: bench, Host: Host()} }

// Add appends rows.
func (r *Report) Add(rows ...Row) { r.Rows = append(r.Rows, rows...) }

// Finish prints the table and writes dir/BENCH.json.
func (r *Report) Finish(w io.Writer, dir string) error {
	if err := r.Print(w); err != nil {
		return err
	}
	_, err := r.Write(dir)
	return err
}

// Print writes the table.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintln(w, r.Host)
	if r.About != "" {
		fmt.Fprintln(w, r.About)
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "CASE\tMETRIC\tOURS\tREFERENCE\t\tUNIT\tRATIO\tSPREAD\tTARGET\tHOLDS")
	for _, row := range r.Rows {
		ref, ratio, target, holds := "-", "-", "-", "-"
		if row.Ref != nil {
			ref, ratio = number(*row.Ref), fmt.Sprintf("%.2f", *row.Ratio)
		}
		if row.Target != nil {
			sign, value := ">=", number(*row.Target)
			if row.below {
				sign = "<="
			}
			if target, holds = sign+" "+value, "no"; *row.Holds {
				holds = "yes"
			}
		}
		name := row.RefName
		if name == "" {
			name = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f%%\t%s\t%s\n", row.Case, row.Metric, number(row.Ours), name, ref, row.Unit, ratio, 100*row.Spread, target, holds)
	}
	return t.Flush()
}

// number prints v with as many digits as a measurement deserves.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Write writes dir/BENCH.json and returns its path.
func (r *Report) Write(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, r.Bench+".json")
	return path, os.WriteFile(path, append(b, '\n'), 0o644)
}

// Host describes this machine.
func Host() string {
	var u unix.Utsname
	release := "unknown"
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	load, _ := os.ReadFile("/proc/loadavg")
	minute, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("Linux %s, %d CPUs, %s, load %s", release, runtime.NumCPU(), runtime.GOARCH, minute)
}

// Median returns the middle of v; 0 when there is none.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// Quantile returns the value of v below which a share q of it lies; v is not empty.
func Quantile[T cmp.Ordered](v []T, q float64) T {
	s := slices.Sorted(slices.Values(v))
	return s[int(q*float64(len(s)-1)+0.5)]
}

// Quartiles returns the distance of the quartiles by the median: a spread that single outliers do not move.
func Quartiles(v []float64) float64 {
	if m := Quantile(v, 0.5); m != 0 {
		return (Quantile(v, 0.75) - Quantile(v, 0.25)) / m
	}
	return 0
}

// Spread returns (max-min)/median of v.
func Spread(v []float64) float64 {
	if m := Median(v); m != 0 {
		return (slices.Max(v) - slices.Min(v)) / m
	}
	return 0
}
