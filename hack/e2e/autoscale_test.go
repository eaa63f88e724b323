// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTopShowsNodesAndPods(t *testing.T) {
	eventually(t, 60*time.Second, func() error { // a kubelet needs two measurements
		out := kubectl(t, "get", "nodes.metrics.k8s.io", "--no-headers")
		if strings.Count(out, "\n") != 3 {
			return fmt.Errorf("nodes: %s", out)
		}
		return nil
	})
	if out := kubectl(t, "top", "nodes", "--no-headers"); strings.Count(out, "%") != 6 {
		t.Errorf("kubectl top nodes: %s; want processors and memory of three nodes, with shares", out)
	}
	eventually(t, 60*time.Second, func() error {
		out := kubectl(t, "-n", "sample", "top", "pods", "--containers", "--no-headers", "-l", "app=web")
		if strings.Count(out, "Mi") != 6 {
			return fmt.Errorf("pods: %s", out)
		}
		return nil
	})
}

// TestAutoscalerFollowsTheProcessor: a load lets a Deployment grow, its end lets it shrink again.
func TestAutoscalerFollowsTheProcessor(t *testing.T) {
	service := spread(t, "busy", `
      terminationGracePeriodSeconds: 1`)
	kubectl(t, "-n", "sample", "scale", "deployment/busy", "--replicas=1")
	kubectl(t, "-n", "sample", "set", "resources", "deployment/busy", "--requests=cpu=10m")
	kubectl(t, "-n", "sample", "rollout", "status", "deployment/busy", "--timeout=60s")
	apply(t, `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy, namespace: sample}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 100}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`)
	t.Cleanup(func() { kubectl(t, "-n", "sample", "delete", "hpa", "busy", "--ignore-not-found") })
	replicas := func() string {
		return strings.TrimSpace(kubectl(t, "-n", "sample", "get", "deployment", "busy", "-o", "jsonpath={.spec.replicas}"))
	}
	load := fromHost(t, "load", "agent-2", url(service.Spec.ClusterIP, 80), "--rate=800")
	eventually(t, 90*time.Second, func() error {
		if n := replicas(); n != "3" {
			return fmt.Errorf("%s replicas under load, want 3:\n%s", n, kubectl(t, "-n", "sample", "describe", "hpa", "busy"))
		}
		return nil
	})
	if _, err := load.end(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 90*time.Second, func() error {
		if n := replicas(); n != "1" {
			return fmt.Errorf("%s replicas after the load, want 1:\n%s", n, kubectl(t, "-n", "sample", "describe", "hpa", "busy"))
		}
		return nil
	})
}
