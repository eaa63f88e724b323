// SPDX-License-Identifier: Apache-2.0

// Command api measures the control plane alone (keys, etcd, API server with admission; no scheduler, controllers or node): the start from an empty
// directory, resident memory when idle, writes, lists and watch fan-out. The server is a child process; clients share its CPUs. It prints a table
// and writes out/bench/api.json. Everything it prints was measured in this run; targets stand in a column of their own.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

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

// below returns a row whose value should stay below target.
func below(name, metric, unit string, v, spread, target float64) row {
	holds := v < target
	return row{Case: name, Metric: metric, Unit: unit, Ours: v, Spread: spread, Target: &target, Holds: &holds}
}

// sizes are how much is done.
type sizes struct {
	starts   int
	idle     time.Duration
	writing  time.Duration
	writers  int
	pods     int
	lists    int
	watchers int
	events   int
	profile  string // file for a CPU profile of the server during the fan-out
}

func main() {
	klog.SetLogger(klog.New(nil))
	if dir := os.Getenv(childDir); dir != "" {
		serve(dir)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench api:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	quick := flag.Bool("quick", false, "one start, few objects: to keep the benchmark working")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	only := flag.Bool("fan-out", false, "only the fan-out, on a server that has done nothing else; no report is written")
	profile := flag.String("profile", "", "write a CPU profile of the server during the fan-out to this file")
	flag.Parse()
	s := sizes{starts: 5, idle: 30 * time.Second, writing: 5 * time.Second, writers: 16, pods: 10000, lists: 5, watchers: 1000, events: 100}
	if *quick {
		s = sizes{starts: 1, idle: 8 * time.Second, writing: time.Second, writers: 4, pods: 500, lists: 2, watchers: 50, events: 20}
	}
	s.profile = *profile
	if *only {
		s.idle = 8 * time.Second
		rows, err := measureServer(ctx, s, fanOut)
		print(rows)
		return err
	}
	var rows []row
	start, err := measureStart(ctx, s.starts)
	if err != nil {
		return err
	}
	rows = append(rows, start...)
	more, err := measureServer(ctx, s, writes, lists, fanOut)
	if err != nil {
		return err
	}
	rows = append(rows, more...)
	print(rows)
	host, _ := os.Hostname()
	data, err := json.MarshalIndent(map[string]any{
		"bench": "api", "host": fmt.Sprintf("%s %s/%s %d CPUs", host, runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), "rows": rows,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "api.json"), append(data, '\n'), 0o644)
}

func print(rows []row) {
	table := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "case\tmetric\tmedian\tunit\tspread\ttarget\tholds\t\n")
	for _, r := range rows {
		target, holds := "-", "-"
		if r.Target != nil {
			target, holds = fmt.Sprintf("< %.0f", *r.Target), map[bool]string{true: "yes", false: "NO"}[*r.Holds]
		}
		fmt.Fprintf(table, "%s\t%s\t%.1f\t%s\t%.0f%%\t%s\t%s\t\n", r.Case, r.Metric, r.Ours, r.Unit, 100*r.Spread, target, holds)
	}
	table.Flush()
}

// measureServer runs cases that need one running server, one after the other.
func measureServer(ctx context.Context, s sizes, cases ...func(context.Context, kubernetes.Interface, *child, sizes) ([]row, error)) ([]row, error) {
	c, err := startChild(ctx)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	select {
	case <-time.After(s.idle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	rss, err := c.resident()
	if err != nil {
		return nil, err
	}
	rows := []row{below("idle", "resident memory", "MB", rss, 0, 200)}
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return nil, err
	}
	for _, measure := range cases {
		more, err := measure(ctx, client, c, s)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	if rss, err = c.resident(); err != nil {
		return nil, err
	}
	return append(rows, row{Case: "after all", Metric: "resident memory", Unit: "MB", Ours: rss}), nil
}
