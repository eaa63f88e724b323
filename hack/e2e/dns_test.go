// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/sandbox"
)

// clusterDNS is the cluster's DNS address.
const clusterDNS = "10.96.0.10:53"

// dnsQuery asks a server, by default the cluster's DNS address, from a host of the sandbox, as flctl does.
func dnsQuery(ctx context.Context, host, name string, server ...string) error {
	var out, errOut bytes.Buffer
	at := append(server, clusterDNS)[0]
	err := env.sandbox.Exec(ctx, host, []string{filepath.Join(env.bin, "flctl"), "dns", "query", name, "--server", at}, nil, &out, &errOut)
	if err == nil && !strings.Contains(out.String(), "status: NOERROR") {
		err = fmt.Errorf("answered %s", out.String())
	}
	if err != nil {
		return fmt.Errorf("%s from %s: %w %s", name, host, err, errOut.String())
	}
	return nil
}

// dnsLoad asks from host, with several clients that repeat a question once, while f runs and until there were questions enough to show anything. None may stay unanswered.
func dnsLoad(t *testing.T, host string, f func(), server ...string) {
	t.Helper()
	var asked, repeated atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				asked.Add(1)
				if dnsQuery(t.Context(), host, "web.sample.svc.cluster.local", server...) == nil {
					continue
				}
				repeated.Add(1)
				if err := dnsQuery(t.Context(), host, "web.sample.svc.cluster.local", server...); err != nil {
					t.Errorf("unanswered after the repetition: %v", err)
				}
			}
		})
	}
	defer func() {
		close(done)
		wg.Wait()
		t.Logf("%d questions, %d repeated", asked.Load(), repeated.Load())
	}()
	f()
	eventually(t, 60*time.Second, func() error {
		if n := asked.Load(); n < 20 {
			return fmt.Errorf("%d questions", n)
		}
		return nil
	})
}

// runOn runs a shell command on a host of the sandbox.
func runOn(t *testing.T, host, command string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if err := env.sandbox.Exec(t.Context(), host, []string{"sh", "-c", command}, nil, &out, &errOut); err != nil {
		t.Fatalf("%s on %s: %v %s", command, host, err, errOut.String())
	}
	return strings.TrimSpace(out.String())
}

func TestKilledDNSServerIsNotMissed(t *testing.T) {
	const host = "agent-1"
	dnsLoad(t, host, func() {
		for range 3 {
			before := runOn(t, host, "pgrep -x fairlead-dns")
			runOn(t, host, "kill -9 "+before)
			eventually(t, 30*time.Second, func() error {
				if now := runOn(t, host, "pgrep -x fairlead-dns || true"); now == "" || now == before {
					return fmt.Errorf("DNS server %q, %q before", now, before)
				}
				return nil
			})
		}
	})
}

func TestNamesAreAnsweredWithoutTheAgent(t *testing.T) {
	const host = "agent-1"
	before := runOn(t, host, "pgrep -x fairlead-dns")
	dnsLoad(t, host, func() {
		if _, err := env.sandbox.Control(host, sandbox.VerbKill, ""); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := dnsQuery(t.Context(), host, "kubernetes.default.svc.cluster.local"); err != nil {
				t.Error(err)
			}
		}
		if _, err := env.sandbox.Control(host, sandbox.VerbStart, ""); err != nil {
			t.Fatal(err)
		}
		kubectl(t, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout=60s")
	})
	if after := runOn(t, host, "pgrep -x fairlead-dns"); after != before {
		t.Errorf("DNS server %s, want %s still: the same version was started again", after, before)
	}
	kubectl(t, "-n", "sample", "create", "service", "clusterip", "late", "--tcp=80")
	defer kubectl(t, "-n", "sample", "delete", "service", "late")
	eventually(t, 10*time.Second, func() error { return dnsQuery(t.Context(), host, "late.sample.svc.cluster.local") })
}

// TestClusterDNSLeavesNoConntrackEntry asks through the socket hook, and by packets from a process that it does not see, over UDP and TCP.
func TestClusterDNSLeavesNoConntrackEntry(t *testing.T) {
	const host = "agent-1"
	ip := podOn(t, host)
	before := clusterDNSEntries(t, host)
	for range 5 {
		if err := dnsQuery(t.Context(), host, "kubernetes.default.svc.cluster.local"); err != nil {
			t.Fatal(err)
		}
		for _, how := range []string{"", "+tcp "} {
			if out := digInPod(t, host, ip, how+"web.sample.svc.cluster.local A"); !strings.Contains(out, "status: NOERROR") {
				t.Errorf("%sby packet: answered\n%s", how, out)
			}
		}
	}
	if after := clusterDNSEntries(t, host); len(after) > len(before) {
		t.Errorf("conntrack entries for cluster DNS:\n%s", strings.Join(after, ""))
	}
}

// TestAbsentDNSServerFallsOver makes a node's server impossible to start: its clients must then be answered by other nodes' servers.
func TestAbsentDNSServerFallsOver(t *testing.T) {
	const host = "agent-1"
	// A file in place of the log's directory entry would be simpler to undo than an executable that all nodes share: the server cannot open its log and does not start.
	runOn(t, host, "mv /var/lib/fairlead/agent/dns.log /var/lib/fairlead/agent/dns.log.kept; mkdir /var/lib/fairlead/agent/dns.log; kill -9 $(pgrep -x fairlead-dns)")
	defer func() {
		runOn(t, host, "rmdir /var/lib/fairlead/agent/dns.log")
		eventually(t, 60*time.Second, func() error {
			if out := kubectl(t, "get", "node", host, "-o", "jsonpath={.metadata.annotations}"); strings.Contains(out, "fairlead.io/dns") {
				return fmt.Errorf("annotations %s", out)
			}
			return nil
		})
	}()
	start := time.Now()
	eventually(t, 30*time.Second, func() error { return dnsQuery(t.Context(), host, "kubernetes.default.svc.cluster.local") })
	t.Logf("answered by another node's server %s after the death of its own", time.Since(start).Round(time.Millisecond))
	ip := podOn(t, host)
	for _, how := range []string{"", "+tcp "} { // digInPod repeats a question once
		eventually(t, 30*time.Second, func() error {
			if out := digInPod(t, host, ip, how+"web.sample.svc.cluster.local A"); !strings.Contains(out, "status: NOERROR") {
				return fmt.Errorf("%sby packet: answered %s", how, out)
			}
			return nil
		})
	}
	if out := runOn(t, host, "pgrep -x fairlead-dns || true"); out != "" {
		t.Errorf("a server runs on the node: %s", out)
	}
}
