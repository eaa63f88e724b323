// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/hack/sandbox"
)

func TestRollingUpdateLosesNothing(t *testing.T) {
	underLoad(t, func() {
		kubectl(t, "-n", "sample", "rollout", "restart", "deployment/web")
		kubectl(t, "-n", "sample", "rollout", "status", "deployment/web", "--timeout=60s")
	})
}

func TestScalingLosesNothing(t *testing.T) {
	underLoad(t, func() {
		for _, n := range []string{"30", "3", "6"} {
			kubectl(t, "-n", "sample", "scale", "deployment/web", "--replicas="+n)
			kubectl(t, "-n", "sample", "rollout", "status", "deployment/web", "--timeout=90s")
		}
	})
}

func TestAgentRestartLosesNothing(t *testing.T) {
	underLoad(t, func() {
		for _, n := range []string{"agent-1", "agent-2"} {
			before := lastLease(t, n)
			control(t, n, sandbox.VerbRestart, "")
			renewed(t, n, before)
		}
	})
}

func TestServerRestartLosesNothing(t *testing.T) {
	underLoad(t, func() {
		before := lastLease(t, "server-1")
		control(t, "server-1", sandbox.VerbRestart, "")
		renewed(t, "server-1", before)
	})
}

func TestContainerdRestartLosesNothing(t *testing.T) {
	underLoad(t, func() {
		for _, n := range []string{"server-1", "agent-1", "agent-2"} {
			killContainerd(t, n)
		}
	})
	// The new daemons run pods.
	kubectl(t, "-n", "sample", "rollout", "restart", "deployment/web")
	kubectl(t, "-n", "sample", "rollout", "status", "deployment/web", "--timeout=60s")
}

// killContainerd kills a node's containerd and waits until there is another.
func killContainerd(t *testing.T, node string) {
	t.Helper()
	const pidFile = "/run/fairlead/containerd/containerd.pid" // pid and start time
	before := inHost(t, node, "cat", pidFile)
	inHost(t, node, "sh", "-c", "kill -9 $(cut -d' ' -f1 "+pidFile+")")
	eventually(t, 20*time.Second, func() error {
		if now := inHost(t, node, "cat", pidFile); now == before {
			return fmt.Errorf("%s: containerd was killed and not started again", node)
		}
		return nil
	})
}

func TestUpgradeLosesNothing(t *testing.T) {
	next := filepath.Join(filepath.Dir(env.bin), "out", "upgrade")
	build := exec.Command("go", "build", "-ldflags", "-s -w -X main.version=v99.0.0", "-o", next+"/", "./cmd/...")
	build.Dir = filepath.Dir(env.bin)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the next version: %v\n%s", err, out)
	}
	nodes := []string{"server-1", "agent-1", "agent-2"}
	t.Cleanup(func() { // the other tests go on with the version under test
		for _, n := range nodes {
			upgrade(t, n, filepath.Join(env.bin, "fairlead"))
		}
	})
	underLoad(t, func() {
		for _, n := range nodes {
			upgrade(t, n, filepath.Join(next, "fairlead"))
			if v := strings.TrimSpace(inHost(t, n, "readlink", "/proc/"+fmt.Sprint(control(t, n, sandbox.VerbStatus, "").Pid)+"/exe")); filepath.Dir(v) != next {
				t.Errorf("%s runs %s after the upgrade, want the executable in %s", n, v, next)
			}
		}
	})
}

func TestPartitionedNodesKeepServing(t *testing.T) {
	service := spread(t, "partition", `
      affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [server-1]}]}]}}}`)
	streams := []stream{
		fromPod(t, "name from a pod", "agent-1", url("partition.sample", 80)),
		fromHost(t, "ClusterIP from a node", "agent-1", url(service.Spec.ClusterIP, 80)),
		fromHost(t, "NodePort from outside", "client", url("10.111.0.12", service.Spec.Ports[0].NodePort)),
	}
	time.Sleep(time.Second)
	if err := env.sandbox.Partition("server-1", false); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second) // agents without a server for this long
	if err := env.sandbox.Partition("server-1", true); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout=90s")
	for _, s := range streams {
		r, err := s.end()
		if err != nil {
			t.Fatal(err)
		}
		wantNoLoss(t, s.name, r)
	}
}

func TestCrashedNodeIsReplaced(t *testing.T) {
	service := spread(t, "crash", `
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}`)
	streams := []stream{
		fromHost(t, "ClusterIP from a node", "agent-2", url(service.Spec.ClusterIP, 80), "--timeout=2s"),
		fromHost(t, "NodePort from outside", "client", url("10.111.0.11", service.Spec.Ports[0].NodePort), "--timeout=2s"),
	}
	time.Sleep(time.Second)
	control(t, "agent-1", sandbox.VerbCrash, "")
	t.Cleanup(func() {
		control(t, "agent-1", sandbox.VerbStart, "")
		kubectl(t, "wait", "node/agent-1", "--for=condition=Ready", "--timeout=90s")
		kubectl(t, "-n", "sample", "rollout", "status", "deployment/web", "--timeout=90s")
		kubectl(t, "-n", "sample", "wait", "pods", "-l", "app in (client, store)", "--for=condition=Ready", "--timeout=90s")
	})
	// The default grace period of a node that does not answer is 40 s to 50 s.
	eventually(t, 90*time.Second, func() error { return noneReadyOn(t, "crash", "agent-1") })
	left := time.Now()
	eventually(t, 60*time.Second, func() error {
		pods, err := env.client.CoreV1().Pods("sample").List(t.Context(), metav1.ListOptions{LabelSelector: "app=crash"})
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil && p.Spec.NodeName != "agent-1" && podReady(&p) {
				ready++
			}
		}
		if ready != 3 {
			return fmt.Errorf("%d of 3 pods are ready on the nodes that are left", ready)
		}
		return nil
	})
	time.Sleep(2 * time.Second) // what goes to the dead node now is too late
	for _, s := range streams {
		r, err := s.end()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d requests, %d failed, the last %s after the endpoints left", s.name, r.Sent, r.Failed, r.LastFailure.Sub(left).Round(time.Millisecond))
		if r.Failed == 0 {
			t.Errorf("%s: no request failed though a backend's node had crashed: the load did not reach it", s.name)
		}
		if r.LastFailure.After(left.Add(time.Second)) {
			t.Errorf("%s: a request failed %s after the dead node's endpoints had left", s.name, r.LastFailure.Sub(left))
		}
	}
}

// spread deploys three replicas over the nodes behind a NodePort service, with podSpec as further lines of their specification, and waits for them.
func spread(t *testing.T, name, podSpec string) *corev1.Service {
	t.Helper()
	manifest := strings.NewReplacer("NAME", name, "PODSPEC", strings.TrimPrefix(podSpec, "\n")).Replace(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: sample}
spec:
  replicas: 3
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
PODSPEC
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: NAME}}}
      containers:
      - name: web
        image: fairlead.io/sample:latest
        imagePullPolicy: IfNotPresent
        args: [serve, --listen=:8080]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: sample}
spec:
  type: NodePort
  selector: {app: NAME}
  ports: [{name: http, port: 80, targetPort: http}]
`)
	apply(t, manifest)
	t.Cleanup(func() { kubectl(t, "-n", "sample", "delete", "deployment,service", name, "--wait=false") })
	kubectl(t, "-n", "sample", "rollout", "status", "deployment/"+name, "--timeout=60s")
	svc, err := env.client.CoreV1().Services("sample").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

// noneReadyOn returns an error while an endpoint of the service on node is ready.
func noneReadyOn(t *testing.T, service, node string) error {
	slices, err := env.client.DiscoveryV1().EndpointSlices("sample").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
	if err != nil {
		return err
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.NodeName != nil && *e.NodeName == node && e.Conditions.Ready != nil && *e.Conditions.Ready {
				return fmt.Errorf("endpoint %v on %s is still ready", e.Addresses, node)
			}
		}
	}
	return nil
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func control(t *testing.T, node string, verb sandbox.Verb, binary string) sandbox.Status {
	t.Helper()
	st, err := env.sandbox.Control(node, verb, binary)
	if err != nil {
		t.Fatalf("%s %s: %v", verb, node, err)
	}
	return st
}

// upgrade ends the node's process in order and starts binary in its place.
func upgrade(t *testing.T, node, binary string) {
	t.Helper()
	before := lastLease(t, node)
	control(t, node, sandbox.VerbStop, "")
	control(t, node, sandbox.VerbStart, binary)
	renewed(t, node, before)
}

// inHost runs a command inside a host of the sandbox and returns what it printed. Like the two below it also serves cleanups, where the test's
// context has ended.
func inHost(t *testing.T, host string, command ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if err := env.sandbox.Exec(context.WithoutCancel(t.Context()), host, command, nil, &out, &errOut); err != nil {
		t.Fatalf("%v on %s: %v\n%s", command, host, err, errOut.String())
	}
	return out.String()
}

// lastLease is when the node's lease was renewed last.
func lastLease(t *testing.T, node string) time.Time {
	t.Helper()
	lease, err := env.client.CoordinationV1().Leases("kube-node-lease").Get(context.WithoutCancel(t.Context()), node, metav1.GetOptions{})
	if err != nil || lease.Spec.RenewTime == nil {
		t.Fatalf("lease of %s: %v", node, err)
	}
	return lease.Spec.RenewTime.Time
}

// renewed waits until node is Ready and its agent has renewed its lease after before: the new process is at work, not the old one remembered.
func renewed(t *testing.T, node string, before time.Time) {
	t.Helper()
	eventually(t, 60*time.Second, func() error {
		lease, err := env.client.CoordinationV1().Leases("kube-node-lease").Get(context.WithoutCancel(t.Context()), node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !lease.Spec.RenewTime.After(before) {
			return fmt.Errorf("the lease of %s was not renewed since %s", node, before)
		}
		n, err := env.client.CoreV1().Nodes().Get(context.WithoutCancel(t.Context()), node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("%s is not Ready", node)
	})
}
