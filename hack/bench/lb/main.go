// SPDX-License-Identifier: Apache-2.0

// Command lb measures one service among many, reached six ways, side by side in one run: (a) no service, routed; (b) iptables rules and (c) nftables rules shaped as
// kube-proxy's modes of those names write them; (d) Fairlead's socket hooks; (e) Fairlead's pod programs (tcx), packet by packet; (f) Fairlead's XDP
// NodePort. Client, node and server are network namespaces joined by veth. It prints a table and writes out/bench/lb.json; everything in it was measured
// in this run. Needs root, iptables and nft.
package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			exit(serve(os.Args[2]))
		case "ask":
			exit(ask(os.Args[2], os.Args[3], os.Args[4]))
		}
	}
	rounds := flag.Int("rounds", 60, "rounds; each measures every case once")
	each := flag.Duration("time", 60*time.Millisecond, "length of one measurement")
	cpu := flag.Int("cpu", runtime.NumCPU()-1, "CPU that clients and servers run on; -1: wherever they are put")
	kinds := flag.String("metrics", "rr,crr", "metrics to measure, by comma")
	sizes := flag.String("sizes", "1,1000,10000", "numbers of services, by comma; nftables takes minutes for 50000")
	only := flag.String("only", "", "variants to measure besides those without a service, by comma; default all")
	name := flag.String("name", "lb", "name of the JSON report: a run of some parts need not replace the whole")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	stats := flag.Bool("stats", false, "have the kernel measure what each run of each program costs; slows them by some 20 ns")
	prog := flag.Bool("programming", false, "measure instead how fast services and changes of endpoints get into the kernel")
	flag.Parse()
	if *only != "" {
		keep := strings.Split(*only, ",")
		for _, v := range variants {
			if slices.Contains(keep, v.name) {
				keep = append(keep, v.ref)
			}
		}
		variants = slices.DeleteFunc(variants, func(v variant) bool { return !slices.Contains(keep, v.name) })
	}
	_ = os.Setenv(envCPU, strconv.Itoa(*cpu))
	r := newFigures(*name, *rounds, *each, *cpu, strings.Split(*kinds, ","))
	r.stats = *stats
	if *prog {
		exit(guarded(func(s *scope) error { return programming(s, *out) }))
	}
	exit(guarded(func(s *scope) error { return run(s, r, *sizes, *out) }))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lb:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// guarded runs f with a scope that ends with it, or with a signal; a failure in the scope is f's error.
func guarded(f func(s *scope) error) (err error) {
	s := new(scope)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		s.end()
		os.Exit(1)
	}()
	defer s.end()
	defer func() {
		if f := recover(); f != nil {
			if f, ok := f.(failure); ok {
				err = f.error
				return
			}
			panic(f)
		}
	}()
	return f(s)
}

func run(s *scope, r *figures, sizes, out string) error {
	for _, f := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return fmt.Errorf("size %q", f)
		}
		if err := measure(s, r, n); err != nil {
			return fmt.Errorf("%d services: %w", n, err)
		}
	}
	return r.report().Finish(os.Stdout, out)
}

// measure sets every variant up with n services and runs all metrics on all variants, interleaved, round by round.
func measure(outer *scope, r *figures, n int) error {
	s := new(scope)
	outer.Cleanup(s.end)
	defer s.end()
	var paths []*path
	for _, v := range variants {
		p := newPath(s, v.name)
		began := time.Now()
		if err := v.set(s, p, n); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s with %d services: set up in %s\n", v.name, n, time.Since(began).Round(time.Millisecond))
		paths = append(paths, p)
	}
	if r.stats {
		closer, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
		if err != nil {
			return fmt.Errorf("measure run time of programs: %w", err)
		}
		defer closer.Close()
		defer func() { printStats(os.Stderr) }()
	}
	for range r.rounds {
		for _, kind := range r.metrics {
			// In another order each time: what comes after what makes no difference then.
			for _, i := range rand.Perm(len(paths)) {
				p := paths[i]
				v, err := p.ask(kind, r.each)
				if err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
				r.add(p.name, kind, n, v)
			}
		}
	}
	return nil
}

// printStats prints the cost of every program of this kernel that ran.
func printStats(w io.Writer) {
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			return
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		info, err := p.Info()
		if err == nil {
			if st, err := p.Stats(); err == nil && st.RunCount > 1000 {
				fmt.Fprintf(w, "%-20s %10d runs, %6.0f ns each\n", info.Name, st.RunCount, float64(st.Runtime.Nanoseconds())/float64(st.RunCount))
			}
		}
		p.Close()
	}
}

// scope is what the test helpers need of a test.
type scope struct{ cleanups []func() }

type failure struct{ error }

func (s *scope) Helper()                   {}
func (s *scope) Fatal(args ...any)         { panic(failure{fmt.Errorf("%s", fmt.Sprintln(args...))}) }
func (s *scope) Fatalf(f string, a ...any) { panic(failure{fmt.Errorf(f, a...)}) }
func (s *scope) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *scope) end() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
	s.cleanups = nil
}
