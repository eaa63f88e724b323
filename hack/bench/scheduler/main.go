// SPDX-License-Identifier: Apache-2.0

// Command scheduler measures how fast pods get nodes: the decisions alone (core), and with the API server in the same process (server). It prints a
// table and writes out/bench/scheduler.json. Everything it prints was measured in this run; targets stand in a column of their own.
package main

import (
	"cmp"
	"context"
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

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// result is one run of one workload.
type result struct {
	queued  time.Duration // to classify and queue all pods
	took    time.Duration // to place all
	latency []time.Duration
	placed  int
	cpu     time.Duration // of the whole process while they were placed
	victims int
}

func (r *result) rate() float64 { return float64(r.placed) / r.took.Seconds() }

func (r *result) cpuPerPod() time.Duration { return r.cpu / time.Duration(max(1, r.placed)) }

// cpuTime is what this process has used so far: unlike time on the clock it hardly depends on who else is on the machine.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

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

// cpuProfile is where profiled writes to; empty means nowhere.
var cpuProfile string

// profiled calls f and, when asked for, profiles it.
func profiled(f func() error) error {
	if cpuProfile == "" {
		return f()
	}
	file, err := os.Create(cpuProfile)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
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
	parts := flag.String("part", "", "only this part: core or server")
	steady := flag.Int("steady", 2000, "pods of the steady stream in which server latency is measured")
	only := flag.String("case", "", "only cases whose name contains this")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	verbosity := flag.Int("logs", -1, "print the components' logs with this verbosity; -1 for none")
	flag.StringVar(&cpuProfile, "cpuprofile", "", "write a CPU profile of the last run's placing here")
	flag.Parse()
	if *verbosity < 0 {
		klog.SetLogger(klog.New(nil))
	} else {
		klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(*verbosity))))
	}
	if *quick {
		*nodes, *pods, *rounds, *steady = 500, 2000, 1, 200
	}
	host, _ := os.Hostname()
	rep := report{Bench: "scheduler", Host: fmt.Sprintf("%s %s/%s %d CPUs", host, runtime.GOOS, runtime.GOARCH, runtime.NumCPU())}
	table := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "part\tcase\tpods\tpods/s\tspread\ttarget\tCPU/pod\tp50\tp99\tqueueing\tvictims\t\n")
	for _, part := range []string{"core", "server"} {
		for _, w := range workloads {
			if *parts != "" && *parts != part || !strings.Contains(w.name, *only) || part == "server" && w.target == 0 {
				continue
			}
			rows, err := measure(table, part, w, *nodes, *pods, *rounds, *steady)
			if err != nil {
				return err
			}
			rep.Rows = append(rep.Rows, rows...)
		}
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

// measure runs one case and prints its line.
func measure(table *tabwriter.Writer, part string, w workload, nodes, pods, rounds, steady int) ([]row, error) {
	count := min(pods, w.limit(nodes))
	if part == "server" {
		count -= min(steady, count/2)
		steady = min(steady, count)
	}
	var runs []result
	for range rounds {
		runtime.GC()
		var r result
		var err error
		if part == "core" {
			r, err = runCore(w, nodes, count)
		} else {
			r, err = runServer(context.Background(), w, nodes, count, steady)
		}
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	slices.SortFunc(runs, func(a, b result) int { return cmp.Compare(a.rate(), b.rate()) })
	middle := runs[len(runs)/2]
	median := middle.rate()
	spread := (runs[len(runs)-1].rate() - runs[0].rate()) / median
	throughput := row{Case: part + "/" + w.name, Metric: "throughput", Unit: "pods/s", Ours: median, Spread: spread}
	target, what := "-", "decision"
	if part == "server" {
		what = "creation to binding"
		holds := median >= w.target
		throughput.Target, throughput.Holds = &w.target, &holds
		target = fmt.Sprintf("%.0f", w.target)
	}
	p50, p99 := middle.quantile(0.5), middle.quantile(0.99)
	fmt.Fprintf(table, "%s\t%s\t%d\t%.0f\t%.0f%%\t%s\t%v\t%v\t%v\t%v\t%d\t\n", part, w.name, count, median, 100*spread, target,
		middle.cpuPerPod().Round(time.Microsecond/10), p50.Round(time.Microsecond/10),
		p99.Round(time.Microsecond/10), middle.queued.Round(time.Millisecond), middle.victims)
	table.Flush()
	return []row{throughput,
		{Case: part + "/" + w.name, Metric: "CPU per pod", Unit: "us", Ours: float64(middle.cpuPerPod().Nanoseconds()) / 1000},
		{Case: part + "/" + w.name, Metric: what + " p50", Unit: "us", Ours: float64(p50.Nanoseconds()) / 1000},
		{Case: part + "/" + w.name, Metric: what + " p99", Unit: "us", Ours: float64(p99.Nanoseconds()) / 1000}}, nil
}
