// SPDX-License-Identifier: Apache-2.0

// Command up measures how long a user waits for a cluster: `fairlead sandbox up`, built before, until its nodes are Ready and the sample's DNS
// name answers a pod. It starts a sandbox of its own and removes it. It writes out/bench/up.json.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fairlead/fairlead/hack/bench/report"
	"github.com/fairlead/fairlead/hack/load"
	"github.com/fairlead/fairlead/hack/sandbox"
)

const answerPatience = time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-up:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	bin := flag.String("bin", "bin", "folder of the executables")
	image := flag.String("image", "out/images/sample.tar", "image archive of the sample")
	manifest := flag.String("manifest", "hack/sample/sample.yaml", "manifest of the sample")
	out := flag.String("out", "out/bench", "folder of the JSON report")
	rounds := flag.Int("rounds", 3, "rounds")
	port := flag.Int("api-port", 17643, "port of 127.0.0.1 for the API")
	flag.Parse()
	b := bench{port: *port}
	for from, to := range map[string]*string{*bin: &b.bin, *image: &b.image, *manifest: &b.manifest} {
		abs, err := filepath.Abs(from)
		if err != nil {
			return err
		}
		*to = abs
	}
	var one, three, answered []float64
	for i := range *rounds {
		ready, _, err := b.round(ctx, 0)
		if err != nil {
			return fmt.Errorf("one node: %w", err)
		}
		one = append(one, ready.Seconds())
		ready, name, err := b.round(ctx, 2)
		if err != nil {
			return fmt.Errorf("three nodes: %w", err)
		}
		three, answered = append(three, ready.Seconds()), append(answered, name.Seconds())
		fmt.Fprintf(os.Stderr, "round %d of %d: one node %.1f s, three nodes %.1f s, name answered %.1f s\n", i+1, *rounds, one[i], three[i], answered[i])
	}
	r := report.New("up")
	r.Add(
		report.Figure("one node", "Ready", "s", one...).AtMost(6),
		report.Figure("three nodes", "Ready", "s", three...),
		report.Figure("three nodes", "sample's DNS name answers", "s", answered...).AtMost(15),
	)
	return r.Finish(os.Stdout, *out)
}

type bench struct {
	bin, image, manifest string
	port                 int
}

// round starts a cluster of one server and so many agents. It returns the time until all were Ready and, with agents, until the sample's DNS name
// answered, both from the start.
func (b bench) round(ctx context.Context, agents int) (ready, answered time.Duration, err error) {
	s, err := sandbox.Open(sandbox.DefaultDir, "bench-up")
	if err != nil {
		return 0, 0, err
	}
	s.Bin = b.bin
	if err := s.Down(); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Down()) }()
	start := time.Now()
	err = s.Up(ctx, sandbox.UpOptions{
		Servers: 1, Agents: agents, Families: sandbox.Families{IPv4: true, IPv6: true}, APIPort: b.port,
		Binary: filepath.Join(b.bin, "fairlead"), Images: []string{b.image}, Out: io.Discard,
	})
	if ready = time.Since(start); err != nil || agents == 0 {
		return ready, 0, err
	}
	if _, err := s.Kubectl().Run(ctx, "apply", "-f", b.manifest); err != nil {
		return ready, 0, err
	}
	for deadline := time.Now().Add(answerPatience); ; {
		out, err := s.Kubectl().Run(ctx, "-n", "sample", "exec", "client", "--", "/sample", "load", "--json", "--url=http://web/", "--rate=20", "--duration=50ms")
		var r load.Result
		if err == nil && json.Unmarshal([]byte(out), &r) == nil && r.OK > 0 {
			return ready, time.Since(start), nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return ready, 0, fmt.Errorf("the sample's name did not answer within %s: %w %v", answerPatience, err, r.Errors)
		}
	}
}
