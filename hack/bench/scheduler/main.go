// SPDX-License-Identifier: Apache-2.0

// Command scheduler measures how fast pods get nodes: the decisions alone (core), and with the API server in the same process (server). It prints a
// table and writes out/bench/scheduler.json. Everything it prints was measured in this run; targets stand in a column of their own.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// result is one run of one workload.
type result struct {
	queued  time.Duration // to classify and queue all pods
	took    time.Duration // to place all
	latency []time.Duration
	victims int
}

func (r *result) rate() float64 { return float64(len(r.latency)) / r.took.Seconds() }

func (r *result) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(r.latency))
	return sorted[int(q*float64(len(sorted)-1))]
}

// row is one line of the JSON that all benchmarks of this repository write.
type row struct {
	Case    string   `json:"case"`
	Metric  string   `json:"metric"`
	Unit    string   `json:"unit"`
	Ours    float64  `json:"ours"`
	RefName string   `json:"ref_name,omitempty"`
	Ref     *float64 `json:"ref"`
	Ratio   *float64 `json:"ratio"`
	Spread  float64  `json:"spread"`
	Target  *float64 `json:"target"`
	Holds   *bool    `json:"holds"`
}

type report struct {
	Bench string `json:"bench"`
	Host  string `json:"host"`
	Rows  []row  `json:"rows"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench scheduler:", err)
		os.Exit(1)
	}
}

func run() error {
	nodes := flag.Int("nodes", 5000, "simulated nodes")
	pods := flag.Int("pods", 50000, "pods per case (fewer where the case has no room for more)")
	rounds := flag.Int("rounds", 3, "runs of each case")
	quick := flag.Bool("quick", false, "500 nodes, 2,000 pods, one round: to keep the benchmark working")
	only := flag.String("case", "", "only cases whose name contains this")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	profile := flag.String("cpuprofile", "", "write a CPU profile here")
	flag.Parse()
	if *quick {
		*nodes, *pods, *rounds = 500, 2000, 1
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	host, _ := os.Hostname()
	rep := report{Bench: "scheduler", Host: fmt.Sprintf("%s %s/%s %d CPUs", host, runtime.GOOS, runtime.GOARCH, runtime.NumCPU())}
	table := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "part\tcase\tpods\tpods/s\tspread\ttarget\tp50\tp99\tqueueing\tvictims\t\n")
	for _, w := range workloads {
		if !strings.Contains(w.name, *only) {
			continue
		}
		count := min(*pods, w.limit(*nodes))
		var rates []float64
		var middle result
		for range *rounds {
			runtime.GC()
			r, err := runCore(w, *nodes, count)
			if err != nil {
				return err
			}
			rates = append(rates, r.rate())
			middle = r
		}
		slices.Sort(rates)
		median := rates[len(rates)/2]
		spread := (rates[len(rates)-1] - rates[0]) / median
		fmt.Fprintf(table, "core\t%s\t%d\t%.0f\t%.0f%%\t\t%v\t%v\t%v\t%d\t\n", w.name, count, median, 100*spread, middle.quantile(0.5).Round(time.Microsecond/10),
			middle.quantile(0.99).Round(time.Microsecond/10), middle.queued.Round(time.Millisecond), middle.victims)
		table.Flush()
		rep.Rows = append(rep.Rows, row{Case: "core/" + w.name, Metric: "throughput", Unit: "pods/s", Ours: median, Spread: spread},
			row{Case: "core/" + w.name, Metric: "decision p50", Unit: "us", Ours: float64(middle.quantile(0.5).Nanoseconds()) / 1000},
			row{Case: "core/" + w.name, Metric: "decision p99", Unit: "us", Ours: float64(middle.quantile(0.99).Nanoseconds()) / 1000})
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "scheduler.json"), append(data, '\n'), 0o644)
}
