// SPDX-License-Identifier: Apache-2.0

// Command podnet measures the pod network beside (a) Debian's bridge CNI plugin with its iptables masquerade and (b) a bare veth pair between two
// namespaces, interleaved, in one run, all in network namespaces of its own. It prints a table and writes out/bench/podnet.json. Everything it prints was
// measured in this run; targets stand in a column of their own. Needs root, iperf3 and Debian's containernetworking-plugins.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "agent":
			exit(agent(os.Args[2]))
		case "serve":
			exit(serveLoad(os.Args[2:]))
		case "ask":
			exit(askLoad(os.Args[2:]))
		}
	}
	rounds := flag.Int("rounds", 5, "rounds; each measures every case once")
	each := flag.Duration("time", 2*time.Second, "length of one measurement")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	plugin := flag.String("plugin", "bin/fairlead-cni", "our CNI plugin")
	only := flag.String("only", "", "measure only what has this in its name, such as TCP or ADD")
	on := flag.String("on", "", "measure only the paths that have this in their place and network, such as \"one node\" or \"bare\"")
	flag.Parse()
	metrics = slices.DeleteFunc(metrics, func(m metric) bool { return !strings.Contains(m.name, *only) })
	exit(run(*rounds, *each, *out, *plugin, *on))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "podnet:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(rounds int, each time.Duration, out, plugin, on string) (err error) {
	plugin, err = filepath.Abs(plugin)
	if err != nil {
		return err
	}
	if _, err := os.Stat(plugin); err != nil {
		return fmt.Errorf("our plugin: %w (make bin/fairlead-cni)", err)
	}
	s := new(scope)
	defer s.end()
	scratch = s
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		s.end()
		os.Exit(1)
	}()
	defer func() {
		if f, ok := recover().(failure); ok {
			err = f.err
		}
	}()
	paths := slices.DeleteFunc(build(s, plugin), func(p path) bool { return !strings.Contains(p.place+", "+p.name, on) })
	r := newFigures(rounds, each)
	for round := range rounds {
		for _, m := range metrics {
			for _, p := range paths {
				if m.kind == "cni" && p.host == nil {
					continue
				}
				v, err := m.measure(p, each)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", p.name, m.name, err)
				}
				r.add(p, m, v)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, rounds)
	}
	return r.report().Finish(os.Stdout, out)
}

// scope collects what has to be undone; it is the nettest.TB of this program.
type scope struct{ cleanups []func() }

type failure struct{ err error }

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
