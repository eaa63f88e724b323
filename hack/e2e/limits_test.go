// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/hack/runc"
	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/testcluster"
)

// ownCluster gives a test a cluster of its own, of a server and an agent with further arguments. What uses env uses that one until the test ends.
func ownCluster(t *testing.T, name string, args ...string) {
	t.Helper()
	root := filepath.Dir(env.bin)
	images, err := testcluster.Images(root)
	if err != nil {
		t.Fatal(err)
	}
	s := testcluster.New(t, name)
	shell := filepath.Join(t.TempDir(), "shell.tar")
	if err := os.Link(filepath.Join(dataDir("agent-1"), "images", "shell.tar"), shell); err != nil {
		t.Fatal(err)
	}
	if err := s.Up(t.Context(), sandbox.UpOptions{Servers: 1, Agents: 1, Families: sandbox.Families{IPv4: true}, APIPort: testcluster.Port(60),
		Binary: filepath.Join(env.bin, "fairlead"), Images: append(images, shell), ExtraArgs: args, Out: os.Stdout}); err != nil {
		t.Fatal(err)
	}
	before := env
	t.Cleanup(func() { env = before })
	env.sandbox = s
	if env.client, err = s.Client(); err != nil {
		t.Fatal(err)
	}
}

// TestNodeLimits tries what a node does by its flags, one after the other, on a cluster of its own.
func TestNodeLimits(t *testing.T) {
	binary, err := runc.Build(t.Context(), filepath.Join(env.bin, "tools"))
	if err != nil {
		t.Fatal(err)
	}
	ownCluster(t, "limits", "--runc="+binary, "--pod-max-pids=100",
		"--eviction-hard=nodefs.available=4Mi", "--eviction-soft=nodefs.available=30Mi", "--eviction-soft-grace-period=nodefs.available=1s",
		"--eviction-max-pod-grace-period=5s", "--eviction-pressure-transition-period=1s",
		"--shutdown-on-term", "--shutdown-grace-period=20s", "--shutdown-grace-period-critical-pods=10s")
	t.Run("a pod's root is nobody on the host", usersOfItsOwn)
	t.Run("a pod has so many processes and no more", processes)
	t.Run("the disk fills", diskFills)
	t.Run("the machine shuts down", machineShutsDown)
}

func usersOfItsOwn(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-users")}
	pod := func(name string) string {
		return strings.ReplaceAll(`
---
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  nodeName: agent-1
  hostUsers: false
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}, {name: s, secret: {secretName: s, defaultMode: 0400}}]
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'cat /proc/self/uid_map /s/k && echo x >/v/f && test -s /var/run/secrets/kubernetes.io/serviceaccount/token && /testapp print= print=mark-NAME serve=8080']
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: v, mountPath: /v}, {name: s, mountPath: /s}]`, "NAME", name)
	}
	first := func(name string) string {
		t.Helper()
		fields := strings.Fields(p.kubectl("logs", name))
		if len(fields) != 5 || fields[0] != "0" || len(fields[1]) < 5 || fields[2] != "65536" || fields[3] != "from-secret" || fields[4] != "mark-"+name {
			t.Fatalf("%s says %q", name, fields)
		}
		return fields[1]
	}
	p.apply(`
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: from-secret}` + pod("a") + pod("b"))
	p.untilReady("a")
	p.untilReady("b")
	a, b := first("a"), first("b")
	if a == b {
		t.Errorf("two pods have the same users, from %s", a)
	}
	if owner := inHost(t, "agent-1", "sh", "-c", "stat -c %u $(dirname $(grep -l 'print=mark-[a]' /proc/[0-9]*/cmdline | head -n 1))"); strings.TrimSpace(owner) != a {
		t.Errorf("the process of pod a is of user %s on its host, want %s", owner, a)
	}
	control(t, "agent-1", sandbox.VerbKill, "")
	p.kubectl("delete", "pod", "b", "--grace-period=0", "--force")
	control(t, "agent-1", sandbox.VerbStart, "")
	p.apply(pod("c")[len("\n---"):])
	p.untilReady("c")
	if c := first("c"); c == a {
		t.Errorf("the third pod has the users of the first, from %s", a)
	}
	if s := p.untilReady("a").Status.ContainerStatuses[0]; s.RestartCount != 0 {
		t.Errorf("%+v", s)
	}
	p.kubectl("delete", "pod", "a", "c")
}

// processes: a pod that forks without end is told that it cannot, and its neighbour does not notice.
func processes(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-pids")}
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: forks}
spec:
  nodeName: agent-1
  restartPolicy: Never
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'i=0; while [ $i -lt 300 ]; do sleep 60 & i=$((i+1)); done; echo all of them']}]
---
apiVersion: v1
kind: Pod
metadata: {name: neighbour}
spec: {nodeName: agent-1, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}`)
	p.untilPhase("forks", corev1.PodFailed)
	if log := p.kubectl("logs", "forks"); !strings.Contains(log, "fork") || strings.Contains(log, "all of them") {
		t.Errorf("the pod that forks says %q", log)
	}
	p.untilReady("neighbour")
	p.sh("neighbour", "true")
	p.kubectl("delete", "pod", "forks", "neighbour")
}

// diskFills: a disk of 64 MiB has less than 30 left. Images that nobody uses go first, then the pod that filled it, with its grace; the other stays, and the
// node recovers.
func diskFills(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-disk")}
	control(t, "agent-1", sandbox.VerbKill, "")
	inHost(t, "agent-1", "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/var/lib/kubelet")
	control(t, "agent-1", sandbox.VerbStart, "")
	pod := func(name, mib string) string {
		return strings.NewReplacer("NAME", name, "MIB", mib).Replace(`
---
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  nodeName: agent-1
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: app, image: IMAGE, command: [/testapp, "fill=/v/f:MIB", forever], volumeMounts: [{name: v, mountPath: /v}]}]`)
	}
	p.apply(pod("modest", "2")[len("\n---"):])
	p.untilReady("modest")
	begin := time.Now().Truncate(time.Second)
	p.apply(pod("greedy", "36")[len("\n---"):])
	greedy := p.untilPhase("greedy", corev1.PodFailed)
	if greedy.Status.Reason != "Evicted" || !strings.HasPrefix(greedy.Status.Message, "The node was low on resource: ephemeral-storage.") {
		t.Errorf("%+v", greedy.Status)
	}
	p.wantEvent("greedy", "Warning Evicted", "ephemeral-storage")
	if list := inHost(t, "agent-1", fairlead(), "image", "list"); strings.Contains(list, "fairlead.io/sample:latest") || !strings.Contains(list, shellImage) {
		t.Errorf("before pods go the images that nobody uses, and only those; the node has\n%s", list)
	}
	eventually(t, podPatience, func() error { // it was there, and is over
		node, err := env.client.CoreV1().Nodes().Get(t.Context(), "agent-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeDiskPressure && (c.Status != corev1.ConditionFalse || c.LastTransitionTime.Time.Before(begin)) {
				return fmt.Errorf("%+v", c)
			}
		}
		return nil
	})
	p.untilReady("modest")
	p.kubectl("delete", "pod", "greedy", "modest")
}

// machineShutsDown: ordinary pods end first, critical ones after them, all say why, and the node that is back takes pods again.
func machineShutsDown(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-shutdown")}
	pod := func(name, more string) string {
		return strings.NewReplacer("NAME", name, "MORE", more).Replace(`
---
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  nodeName: agent-1
  MORE
  terminationGracePeriodSeconds: 8
  containers: [{name: app, image: IMAGE, command: [/testapp, forever], lifecycle: {preStop: {exec: {command: [sleep, "2"]}}}}]`)
	}
	p.apply(pod("critical", "priorityClassName: system-cluster-critical") + pod("ordinary", "restartPolicy: Always"))
	p.untilReady("critical")
	p.untilReady("ordinary")
	control(t, "agent-1", sandbox.VerbStop, "") // SIGTERM; returns when the agent has ended
	ends := map[string]time.Time{}
	for _, name := range []string{"ordinary", "critical"} {
		pod := p.untilPhase(name, corev1.PodFailed)
		if pod.Status.Reason != "Terminated" || pod.Status.Message != "Pod was terminated in response to imminent node shutdown." {
			t.Errorf("%s: %s %s", name, pod.Status.Reason, pod.Status.Message)
		}
		end := pod.Status.ContainerStatuses[0].State.Terminated
		if end == nil || end.ExitCode != 0 {
			t.Fatalf("%s: %+v", name, pod.Status.ContainerStatuses[0].State)
		}
		ends[name] = end.FinishedAt.Time
	}
	if gap := ends["critical"].Sub(ends["ordinary"]); gap < time.Second {
		t.Errorf("the critical pod ended %s after the ordinary one, though each takes two seconds", gap)
	}
	node := kubectl(t, "get", "node", "agent-1", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")]}`)
	if missing := containsAll(node, `"False"`, "node is shutting down"); missing != "" {
		t.Errorf("the node's condition lacks %s: %s", missing, node)
	}
	control(t, "agent-1", sandbox.VerbStart, "")
	p.apply(pod("after", "restartPolicy: Always")[len("\n---"):])
	p.untilReady("after")
	p.kubectl("delete", "pod", "after", "--grace-period=0", "--force")
}
