// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/sandbox"
)

const (
	loadRate     = 100
	loadDuration = 20 * time.Second
)

// underLoad runs disturb while requests arrive at the service address on a node and at the node port from outside, and wants every one answered.
func underLoad(t *testing.T, disturb func(t *testing.T)) {
	svc := webService(t)
	started := make(chan struct{})
	nodePort := make(chan struct{})
	go func() {
		defer close(nodePort)
		<-started
		r := background(t, "client", url("10.111.0.12", svc.Spec.Ports[0].NodePort), loadRate, loadDuration, func() {})
		wantNoLoss(t, "NodePort from outside", r)
	}()
	r := background(t, "agent-2", url(svc.Spec.ClusterIP, 80), loadRate, loadDuration, func() {
		close(started)
		time.Sleep(time.Second) // load before the disturbance
		disturb(t)
	})
	wantNoLoss(t, "ClusterIP from a node", r)
	<-nodePort
}

func TestRollingUpdateLosesNothing(t *testing.T) {
	underLoad(t, func(t *testing.T) {
		kubectl(t, "-n", "sample", "rollout", "restart", "deployment/web")
		kubectl(t, "-n", "sample", "rollout", "status", "deployment/web", "--timeout=60s")
	})
}

func TestScalingLosesNothing(t *testing.T) {
	underLoad(t, func(t *testing.T) {
		for _, n := range []string{"12", "3", "6"} {
			kubectl(t, "-n", "sample", "scale", "deployment/web", "--replicas="+n)
			kubectl(t, "-n", "sample", "rollout", "status", "deployment/web", "--timeout=60s")
		}
	})
}

func TestAgentRestartLosesNothing(t *testing.T) {
	underLoad(t, func(t *testing.T) {
		for _, n := range []string{"agent-1", "agent-2"} {
			if _, err := env.sandbox.Control(n, sandbox.VerbRestart, ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
	})
	kubectl(t, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout=60s")
}

func TestServerRestartLosesNothing(t *testing.T) {
	underLoad(t, func(t *testing.T) {
		if _, err := env.sandbox.Control("server-1", sandbox.VerbRestart, ""); err != nil {
			t.Fatal(err)
		}
	})
	kubectl(t, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout=60s")
}

func TestPartitionedNodeKeepsServing(t *testing.T) {
	svc := webService(t)
	if err := env.sandbox.Partition("server-1", false); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := env.sandbox.Partition("server-1", true); err != nil {
			t.Fatal(err)
		}
		kubectl(t, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout=90s")
	}()
	// Backends on the cut-off server are unreachable, those on the agents are not: enough to see that the agents' datapath goes on.
	r := background(t, "client", url("10.111.0.12", svc.Spec.Ports[0].NodePort), 50, 3*time.Second, func() {})
	if r.OK == 0 {
		t.Errorf("no request was answered while the API server was cut off: %v", r.Errors)
	}
}

func TestLogsExecAndEvents(t *testing.T) {
	pods := strings.Fields(kubectl(t, "-n", "sample", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(pods) == 0 {
		t.Fatal("no web pods")
	}
	if out := kubectl(t, "-n", "sample", "logs", pods[0]); !strings.Contains(out, pods[0]+" serves on :8080") {
		t.Errorf("logs of %s: %q", pods[0], out)
	}
	if out := kubectl(t, "-n", "sample", "exec", pods[0], "--", "/sample", "load", "--url=http://127.0.0.1:8080/", "--rate=10", "--duration=1s"); !strings.Contains(out, "10 requests, 0 failed") {
		t.Errorf("exec: %q", out)
	}
	if out := kubectl(t, "-n", "sample", "describe", "pod", pods[0]); !strings.Contains(out, "Scheduled") || !strings.Contains(out, "Started") {
		t.Errorf("describe shows no events:\n%s", out)
	}
}
