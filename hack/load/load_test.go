// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestRunCountsAnswersAndFailures(t *testing.T) {
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%4 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set(BackendHeader, "b1")
	}))
	defer srv.Close()
	r, err := Run(context.Background(), Options{URL: srv.URL, Rate: 200, Duration: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 100 || r.OK+r.Failed != r.Sent {
		t.Errorf("sent %d, ok %d, failed %d; want 100 in all", r.Sent, r.OK, r.Failed)
	}
	if r.Failed != 25 || r.Errors["status 503"] != 25 || r.Backends["b1"] != 75 {
		t.Errorf("failed %d, errors %v, backends %v; want every fourth to fail with status 503", r.Failed, r.Errors, r.Backends)
	}
}

func TestStallCountsFromTheSchedule(t *testing.T) {
	var first atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if first.CompareAndSwap(false, true) {
			time.Sleep(200 * time.Millisecond)
		}
	}))
	defer srv.Close()
	r, err := Run(context.Background(), Options{URL: srv.URL, Rate: 100, Duration: 300 * time.Millisecond, MaxInFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	// With one slot the arrivals during the stall find it busy: they are failures, not omitted.
	if r.Sent != 30 || r.Failed < 10 {
		t.Errorf("sent %d, failed %d; want 30 sent and the arrivals of the stall failed", r.Sent, r.Failed)
	}
}

func TestEndedLoadWaitsForItsAnswers(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		stop() // the load ends while this request is under way
		time.Sleep(100 * time.Millisecond)
	}))
	defer srv.Close()
	r, err := Run(ctx, Options{URL: srv.URL, Rate: 20, Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != 0 || r.OK == 0 || !r.LastFailure.IsZero() {
		t.Errorf("ok %d, failed %d (%v), last failure %v; want the request under way answered", r.OK, r.Failed, r.Errors, r.LastFailure)
	}
	if r.Elapsed > 30*time.Second {
		t.Errorf("the load went on for %s after it was ended", r.Elapsed)
	}
}

func TestLastFailureIsWhenItWasDue(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer srv.Close()
	before := time.Now()
	r, err := Run(context.Background(), Options{URL: srv.URL, Rate: 10, Duration: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.LastFailure.Before(before.Add(200*time.Millisecond)) || r.LastFailure.After(before.Add(r.Elapsed)) {
		t.Errorf("last failure %s after the start of %s; want the third request, due after 200ms", r.LastFailure.Sub(before), r.Elapsed)
	}
}

func TestResetIsCountedAsReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1))
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	r, err := Run(context.Background(), Options{URL: "http://" + l.Addr().String(), Rate: 50, Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != r.Sent || r.Resets == 0 {
		t.Errorf("sent %d, failed %d, resets %d, errors %v; want all failed by resets", r.Sent, r.Failed, r.Resets, r.Errors)
	}
}

func TestRunRefusesUnboundedLoad(t *testing.T) {
	good := Options{URL: "http://127.0.0.1:1/", Rate: 1, Duration: time.Second}
	for name, change := range map[string]func(*Options){
		"rate":     func(o *Options) { o.Rate = MaxRate + 1 },
		"no rate":  func(o *Options) { o.Rate = 0 },
		"duration": func(o *Options) { o.Duration = MaxDuration + 1 },
		"url":      func(o *Options) { o.URL = "ftp://x" },
	} {
		o := good
		change(&o)
		if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%s: error %v, want one that says what is allowed", name, err)
		}
	}
}

func TestDistributionCountsEveryAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	r, err := Run(t.Context(), Options{URL: server.URL + "/", Rate: 500, Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Latencies) < 2 {
		t.Fatalf("%d points of %d answers", len(r.Latencies), r.OK)
	}
	for i, p := range r.Latencies[1:] {
		if before := r.Latencies[i]; p.Latency < before.Latency || p.Percent < before.Percent || p.Count < before.Count {
			t.Errorf("point %+v after %+v", p, before)
		}
	}
	if last := r.Latencies[len(r.Latencies)-1]; last.Count != r.OK || last.Percent != 100 {
		t.Errorf("the last point is %+v, want all %d answers", last, r.OK)
	}
	var out strings.Builder
	if err := r.PrintDistribution(&out); err != nil || strings.Count(out.String(), "\n") != len(r.Latencies)+2 {
		t.Errorf("%v\n%s", err, out.String())
	}
}
