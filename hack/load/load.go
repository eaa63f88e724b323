// SPDX-License-Identifier: Apache-2.0

// Package load is a bounded HTTP load generator with open-loop arrival: requests start at their scheduled times whether or not earlier ones have
// been answered, and latency counts from the schedule, so that a stall is seen in full (no coordinated omission). It is linked into the
// sandbox command and into the sample image, so the same measurement runs outside the cluster, on a node and in a pod.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Limits keep a run bounded whatever is asked.
const (
	MaxDuration = 10 * time.Minute
	MaxRate     = 50_000
)

// Options say what to send.
type Options struct {
	URL         string        // http://HOST:PORT/PATH
	Rate        float64       // arrivals per second
	Duration    time.Duration // how long requests are started
	Timeout     time.Duration // of one request; 0 means 5 s
	Reuse       bool          // keep connections open between requests; default is a new connection each
	MaxInFlight int           // 0 means 1,000; an arrival that finds all of them busy is counted as failed
	Resolver    string        // HOST:PORT of the DNS server to use; empty means the system's
}

// Result is what was seen. Latencies are in nanoseconds from the scheduled start to the last byte.
type Result struct {
	URL      string         `json:"url"`
	Sent     int64          `json:"sent"`
	OK       int64          `json:"ok"`
	Failed   int64          `json:"failed"`
	Resets   int64          `json:"resets"` // of Failed: connection reset by peer
	Errors   map[string]int `json:"errors,omitempty"`
	Backends map[string]int `json:"backends"` // answers by the X-Backend header
	P50      time.Duration  `json:"p50Ns"`
	P99      time.Duration  `json:"p99Ns"`
	P999     time.Duration  `json:"p999Ns"`
	Max      time.Duration  `json:"maxNs"`
	// Latencies is the whole distribution of the answered requests, finer towards its end.
	Latencies []Point       `json:"latencies,omitempty"`
	Elapsed   time.Duration `json:"elapsedNs"`
	// LastFailure is when the last request that failed was due; zero when none did.
	LastFailure time.Time `json:"lastFailure,omitzero"`
	Rate        float64   `json:"ratePerSecond"` // answered
}

// Point says that Count requests, which are Percent of all answered ones, took at most Latency.
type Point struct {
	Percent float64       `json:"percent"`
	Latency time.Duration `json:"ns"`
	Count   int64         `json:"count"`
}

// halvings is how many points lie between a percentile and the one half as far from 100.
const halvings = 5

// BackendHeader names the backend in an answer.
const BackendHeader = "X-Backend"

const maxErrorKinds = 20

// Run sends the load until its duration is over or ctx ends, waits for the answers still due, and returns what it saw. An error means that the
// options are wrong, not that requests failed.
func Run(ctx context.Context, o Options) (Result, error) {
	switch {
	case o.Rate <= 0 || o.Rate > MaxRate:
		return Result{}, fmt.Errorf("rate %g: want more than 0 and at most %d requests/s", o.Rate, MaxRate)
	case o.Duration <= 0 || o.Duration > MaxDuration:
		return Result{}, fmt.Errorf("duration %s: want more than 0 and at most %s", o.Duration, MaxDuration)
	case !strings.HasPrefix(o.URL, "http://"):
		return Result{}, fmt.Errorf("url %q: want http://HOST:PORT/", o.URL)
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = 1000
	}
	g := &generator{opts: o, hist: hdrhistogram.New(1000, int64(o.Timeout)*2, 3)}
	g.result = Result{URL: o.URL, Errors: map[string]int{}, Backends: map[string]int{}}
	g.client = &http.Client{Timeout: o.Timeout, Transport: transport(o)}
	return g.run(ctx), nil
}

func transport(o Options) *http.Transport {
	dialer := &net.Dialer{Timeout: o.Timeout}
	if o.Resolver != "" {
		dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, o.Resolver)
		}}
	}
	return &http.Transport{
		DialContext:         dialer.DialContext,
		DisableKeepAlives:   !o.Reuse,
		MaxIdleConnsPerHost: o.MaxInFlight,
		MaxIdleConns:        o.MaxInFlight,
	}
}

type generator struct {
	opts   Options
	client *http.Client

	mu     sync.Mutex
	hist   *hdrhistogram.Histogram
	result Result
}

func (g *generator) run(ctx context.Context) Result {
	start := time.Now()
	interval := time.Duration(float64(time.Second) / g.opts.Rate)
	slots := make(chan struct{}, g.opts.MaxInFlight)
	var wg sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
arrivals:
	for due := start; due.Sub(start) < g.opts.Duration; due = due.Add(interval) {
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				break arrivals
			}
		}
		select {
		case slots <- struct{}{}:
		default:
			g.record(due, "", fmt.Errorf("all %d requests in flight are waiting", g.opts.MaxInFlight))
			continue
		}
		wg.Add(1)
		go func(due time.Time) {
			defer wg.Done()
			backend, err := g.one(context.WithoutCancel(ctx)) // stopping the load must not fail requests under way
			g.record(due, backend, err)
			<-slots
		}(due)
	}
	wg.Wait()
	g.client.CloseIdleConnections()
	r := &g.result
	r.Elapsed = time.Since(start)
	r.P50 = time.Duration(g.hist.ValueAtQuantile(50))
	r.P99 = time.Duration(g.hist.ValueAtQuantile(99))
	r.P999 = time.Duration(g.hist.ValueAtQuantile(99.9))
	r.Max = time.Duration(g.hist.Max())
	if r.OK > 0 {
		for _, b := range g.hist.CumulativeDistributionWithTicks(halvings) {
			r.Latencies = append(r.Latencies, Point{Percent: b.Quantile, Latency: time.Duration(b.ValueAt), Count: b.Count})
		}
	}
	r.Rate = float64(r.OK) / r.Elapsed.Seconds()
	return *r
}

func (g *generator) one(ctx context.Context) (backend string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.opts.URL, nil)
	if err != nil {
		return "", err
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Header.Get(BackendHeader), nil
}

func (g *generator) record(due time.Time, backend string, err error) {
	took := time.Since(due)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.result.Sent++
	if err != nil {
		g.result.Failed++
		if due.After(g.result.LastFailure) {
			g.result.LastFailure = due
		}
		if errors.Is(err, syscall.ECONNRESET) {
			g.result.Resets++
		}
		if kind := errorKind(err); len(g.result.Errors) < maxErrorKinds || g.result.Errors[kind] > 0 {
			g.result.Errors[kind]++
		}
		return
	}
	g.result.OK++
	g.result.Backends[backend]++
	_ = g.hist.RecordValue(min(int64(took), g.hist.HighestTrackableValue())) // never out of range
}

// errorKind drops what differs from request to request (ports), so that errors can be counted.
func errorKind(err error) string {
	var errno syscall.Errno
	var netErr net.Error
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	}
	return err.Error()
}

// Print writes the result for a person.
func (r Result) Print(w io.Writer) {
	fmt.Fprintf(w, "%s\n  %d requests, %d failed (%d resets), %.0f/s answered\n", r.URL, r.Sent, r.Failed, r.Resets, r.Rate)
	fmt.Fprintf(w, "  latency p50 %s  p99 %s  p99.9 %s  max %s\n", round(r.P50), round(r.P99), round(r.P999), round(r.Max))
	names := make([]string, 0, len(r.Backends))
	for name := range r.Backends {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(w, "  backend %-40s %6d\n", name, r.Backends[name])
	}
	for kind, n := range r.Errors {
		fmt.Fprintf(w, "  error   %-40s %6d\n", kind, n)
	}
}

// PrintDistribution writes the latencies as plotters of HdrHistogram read them: milliseconds, share, count, 1/(1-share).
func (r Result) PrintDistribution(w io.Writer) error {
	fmt.Fprintf(w, "%12s %14s %10s %14s\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")
	for _, p := range r.Latencies {
		share := p.Percent / 100
		_, err := fmt.Fprintf(w, "%12.3f %14.12f %10d %14.2f\n", float64(p.Latency)/1e6, share, p.Count, 1/(1-share))
		if err != nil {
			return err
		}
	}
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(time.Microsecond) }
