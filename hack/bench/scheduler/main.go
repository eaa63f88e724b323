// SPDX-License-Identifier: Apache-2.0

// Command scheduler measures how fast pods get nodes: the decisions alone (core), and with the API server in the same process (server). It prints a
// table and writes out/bench/scheduler.json. Everything it prints was measured in this run; targets stand in a column of their own.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/fairlead/fairlead/hack/bench/report"
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
	rep := report.New("scheduler")
	rep.About = fmt.Sprintf("%d nodes, up to %d pods; medians of %d rounds; latencies are of the middle round", *nodes, *pods, *rounds)
	for _, part := range []string{"core", "server"} {
		for _, w := range workloads {
			if *parts != "" && *parts != part || !strings.Contains(w.name, *only) || part == "server" && w.target == 0 {
				continue
			}
			rows, err := measure(part, w, *nodes, *pods, *rounds, *steady)
			if err != nil {
				return err
			}
			rep.Add(rows...)
		}
	}
	return rep.Finish(os.Stdout, *out)
}

// measure runs one case and says on standard error how far it is: a case of the whole size takes minutes.
func measure(part string, w workload, nodes, pods, rounds, steady int) ([]report.Row, error) {
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
	var rates []float64
	for _, r := range runs {
		rates = append(rates, r.rate())
	}
	middle := runs[len(runs)/2]
	name, what := fmt.Sprintf("%s/%s, %d pods", part, w.name, count), "decision"
	throughput := report.Figure(name, "throughput", "pods/s", rates...)
	if part == "server" {
		what, throughput = "creation to binding", throughput.AtLeast(w.target)
	}
	fmt.Fprintf(os.Stderr, "%s: %.0f pods/s\n", name, throughput.Ours)
	rows := []report.Row{throughput,
		report.Figure(name, "CPU per pod", "us", microseconds(middle.cpuPerPod())),
		report.Figure(name, what+" p50", "us", microseconds(report.Quantile(middle.latency, 0.5))),
		report.Figure(name, what+" p99", "us", microseconds(report.Quantile(middle.latency, 0.99))),
		report.Figure(name, "queueing of all", "ms", microseconds(middle.queued)/1000),
	}
	if middle.victims > 0 {
		rows = append(rows, report.Figure(name, "victims", "pods", float64(middle.victims)))
	}
	return rows, nil
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
