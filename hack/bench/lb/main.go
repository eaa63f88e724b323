// SPDX-License-Identifier: Apache-2.0

// Command lb measures one service among many, reached six ways, side by side in one run: (a) no service, routed; (b) iptables rules and (c) nftables rules shaped as
// kube-proxy's modes of those names write them; (d) Fairlead's socket hooks; (e) Fairlead's pod programs (tcx), packet by packet; (f) Fairlead's XDP
// NodePort. Client, node and server are network namespaces joined by veth. It prints a table and writes out/bench/lb.json; everything in it was measured
// in this run. Needs root, iptables and nft.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
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
	rounds := flag.Int("rounds", 5, "rounds; each measures every case once")
	each := flag.Duration("time", time.Second, "length of one measurement")
	sizes := flag.String("sizes", "1,1000,10000", "numbers of services, by comma; nftables takes minutes for 50000")
	only := flag.String("only", "", "variants to measure besides direct, by comma; default all")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	flag.Parse()
	if *only != "" {
		keep := append(strings.Split(*only, ","), "direct")
		variants = slices.DeleteFunc(variants, func(v variant) bool { return !slices.Contains(keep, v.name) })
	}
	exit(run(*rounds, *each, *sizes, *out))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lb:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(rounds int, each time.Duration, sizes, out string) (err error) {
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
	r := newReport(rounds, each)
	for _, f := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return fmt.Errorf("size %q", f)
		}
		if err := measure(s, r, n); err != nil {
			return fmt.Errorf("%d services: %w", n, err)
		}
	}
	return r.write(os.Stdout, out)
}

// measure sets every variant up with n services and runs all metrics on all variants, interleaved, round by round.
func measure(outer *scope, r *report, n int) error {
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
	for range r.rounds {
		for _, kind := range []string{"rr", "crr"} {
			for _, p := range paths {
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
