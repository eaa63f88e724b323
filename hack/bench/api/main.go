// SPDX-License-Identifier: Apache-2.0

// Command api measures the control plane alone (keys, etcd, API server with admission; no scheduler, controllers or node): the start from an empty
// directory, resident memory when idle, writes, lists and watch fan-out. The server is a child process; clients share its CPUs. It prints a table
// and writes out/bench/api.json. Everything it prints was measured in this run; targets stand in a column of their own.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/hack/bench/report"
)

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
	r := report.New("api")
	if *only {
		s.idle = 8 * time.Second
		rows, err := measureServer(ctx, s, fanOut)
		if err != nil {
			return err
		}
		r.Add(rows...)
		return r.Print(os.Stdout)
	}
	start, err := measureStart(ctx, s.starts)
	if err != nil {
		return err
	}
	r.Add(start)
	rows, err := measureServer(ctx, s, writes, lists, fanOut)
	if err != nil {
		return err
	}
	r.Add(rows...)
	return r.Finish(os.Stdout, *out)
}

// measureServer runs cases that need one running server, one after the other.
func measureServer(ctx context.Context, s sizes, cases ...func(context.Context, kubernetes.Interface, *child, sizes) ([]report.Row, error)) ([]report.Row, error) {
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
	rows := []report.Row{report.Figure("idle", "resident memory", "MB", rss).AtMost(200)}
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
	return append(rows, report.Figure("after all", "resident memory", "MB", rss)), nil
}
