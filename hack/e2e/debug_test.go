// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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

func TestNodesShowTheirRoles(t *testing.T) {
	nodes, err := env.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		_, has := n.Labels["node-role.kubernetes.io/control-plane"]
		if want := strings.HasPrefix(n.Name, "server-"); has != want {
			t.Errorf("%s has the control plane's role: %t, want %t", n.Name, has, want)
		}
	}
}
