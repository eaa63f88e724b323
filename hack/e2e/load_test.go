// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/load"
	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/testcluster"
)

const (
	loadRate  = 100             // requests a second and stream
	loadLimit = 3 * time.Minute // a stream ends by itself after this
)

// stream is an open-loop load that runs until it is ended.
type stream struct {
	name string
	end  func() (load.Result, error)
}

// fromHost starts a load from a host of the sandbox: a node, or "client" outside the cluster.
func fromHost(t *testing.T, name, host, target string, more ...string) stream {
	t.Helper()
	return fromHostOf(t, env.sandbox, name, host, target, more...)
}

// fromHostOf is fromHost in another sandbox.
func fromHostOf(t *testing.T, s *sandbox.Sandbox, name, host, target string, more ...string) stream {
	t.Helper()
	args := append([]string{"--rate", fmt.Sprint(loadRate), "--duration", loadLimit.String()}, more...)
	return stream{name, testcluster.StartLoad(t.Context(), s, host, target, args...).End}
}

// fromPod starts a load that is the first process of a pod on node, so that nothing but the pod's own network carries it. The kubelet of node must
// be up when the stream ends.
func fromPod(t *testing.T, name, node, target string) stream {
	t.Helper()
	pod := "load-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	overrides := fmt.Sprintf(`{"spec":{"nodeName":%q,"terminationGracePeriodSeconds":1}}`, node)
	kubectl(t, "-n", "sample", "run", pod, "--image=fairlead.io/sample:latest", "--image-pull-policy=IfNotPresent", "--restart=Never", "--overrides="+overrides,
		"--", "load", "--json", "--url="+target, "--rate="+fmt.Sprint(loadRate), "--duration="+loadLimit.String())
	t.Cleanup(func() { kubectl(t, "-n", "sample", "delete", "pod", pod, "--ignore-not-found", "--wait=false") })
	kubectl(t, "-n", "sample", "wait", "pod/"+pod, "--for=condition=Ready", "--timeout=60s")
	return stream{name, func() (load.Result, error) {
		kubectl(t, "-n", "sample", "exec", pod, "--", "/sample", "stop")
		kubectl(t, "-n", "sample", "wait", "pod/"+pod, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
		var r load.Result
		return r, json.Unmarshal([]byte(kubectl(t, "-n", "sample", "logs", pod)), &r)
	}}
}

// underLoad runs disturb while requests arrive at the sample's web service in three ways: at its address from a node, at the same from a pod on
// another node, and at a node port from outside. It wants every one answered.
func underLoad(t *testing.T, disturb func()) {
	t.Helper()
	svc := webService(t)
	streams := []stream{
		fromPod(t, "ClusterIP from a pod", "agent-1", url(svc.Spec.ClusterIP, 80)),
		fromHost(t, "ClusterIP from a node", "agent-2", url(svc.Spec.ClusterIP, 80)),
		fromHost(t, "NodePort from outside", "client", url("10.111.0.12", svc.Spec.Ports[0].NodePort)),
	}
	time.Sleep(time.Second) // load before the disturbance
	disturb()
	time.Sleep(time.Second) // and after it
	for _, s := range streams {
		r, err := s.end()
		if err != nil {
			t.Fatal(err)
		}
		wantNoLoss(t, s.name, r)
	}
}

// wantNoLoss fails the test when a request of r failed, or when the load did not reach both sides of the disturbance.
func wantNoLoss(t *testing.T, what string, r load.Result) {
	t.Helper()
	t.Logf("%s: %d requests in %s, %d failed, %d resets, %d backends, p50 %s, p99 %s, max %s", what, r.Sent, r.Elapsed.Round(time.Millisecond),
		r.Failed, r.Resets, len(r.Backends), r.P50, r.P99, r.Max)
	if r.Sent < loadRate || r.Failed > 0 {
		t.Errorf("%s: %d of %d requests failed: %v", what, r.Failed, r.Sent, r.Errors)
	}
}
