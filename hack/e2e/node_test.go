// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/hack/sandbox"
)

// dataDir is, seen from this machine, what a host of the sandbox has as /var/lib/fairlead.
func dataDir(host string) string { return filepath.Join(env.sandbox.Dir, "nodes", host, "data") }

// socketIn makes a socket in a host's network namespace.
func socketIn[T any](t *testing.T, host string, open func() (T, error)) (out T, err error) {
	t.Helper()
	pid, err := env.sandbox.InitPid(host)
	if err != nil {
		return out, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var file *os.File
		if file, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
			return
		}
		defer file.Close()
		if err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err == nil {
			out, err = open()
		}
	}()
	<-done
	return out, err
}

// TestNodesSayWhatTheyAre: a node joined by its token alone has certificates the cluster signed, a lease it keeps, and says what it is.
func TestNodesSayWhatTheyAre(t *testing.T) {
	csrs := kubectl(t, "get", "csr", "--no-headers")
	for _, signer := range []string{"kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"} {
		found := false
		for line := range strings.Lines(csrs) {
			found = found || containsAll(line, signer, "Approved,Issued") == ""
		}
		if !found {
			t.Errorf("no signed certificate of %s among\n%s", signer, csrs)
		}
	}
	lease := func() time.Time {
		l, err := env.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), "agent-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return l.Spec.RenewTime.Time
	}
	first := lease()
	node, err := env.client.CoreV1().Nodes().Get(t.Context(), "agent-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[corev1.NodeConditionType]corev1.ConditionStatus{corev1.NodeReady: corev1.ConditionTrue, corev1.NodeMemoryPressure: corev1.ConditionFalse,
		corev1.NodeDiskPressure: corev1.ConditionFalse, corev1.NodePIDPressure: corev1.ConditionFalse}
	for _, c := range node.Status.Conditions {
		if c.Status == want[c.Type] {
			delete(want, c.Type)
		}
	}
	if len(want) > 0 {
		t.Errorf("conditions %v, want also %v", node.Status.Conditions, want)
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods} {
		all, free := node.Status.Capacity[name], node.Status.Allocatable[name]
		if all.IsZero() || free.IsZero() || free.Cmp(all) > 0 {
			t.Errorf("%s: capacity %s, allocatable %s", name, all.String(), free.String())
		}
	}
	info := node.Status.NodeInfo
	if !strings.HasPrefix(info.ContainerRuntimeVersion, "containerd://2") || !strings.HasPrefix(info.KubeletVersion, "v1.37.") || info.MachineID == "" || info.BootID == "" {
		t.Errorf("%+v", info)
	}
	if addresses := fmt.Sprint(node.Status.Addresses); containsAll(addresses, "10.111.0.12", "fd00:10:111::c", "agent-1") != "" {
		t.Errorf("addresses %s", addresses)
	}
	if images := fmt.Sprint(node.Status.Images); containsAll(images, shellImage, "fairlead.io/sample:latest") != "" {
		t.Errorf("images %s", images)
	}
	if pressure := node.Annotations["fairlead.io/pressure"]; containsAll(pressure, "cpu=", "memory=", "io=") != "" {
		t.Errorf("pressure %q", pressure)
	}
	eventually(t, 30*time.Second, func() error {
		if !lease().After(first) {
			return fmt.Errorf("the lease was last renewed at %s", first)
		}
		return nil
	})
}

// TestContainersOutliveTheirKeepers: an agent that is killed and a containerd that is killed change nothing for containers, and what happened meanwhile is made up for.
func TestContainersOutliveTheirKeepers(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-keepers")}
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: stays}
spec: {nodeName: agent-1, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: goes}
spec: {nodeName: agent-1, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}`)
	before := p.untilReady("stays").Status.ContainerStatuses[0]
	p.untilReady("goes")
	control(t, "agent-1", sandbox.VerbKill, "")
	p.kubectl("delete", "pod", "goes", "--wait=false")
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: comes}
spec: {nodeName: agent-1, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}`)
	control(t, "agent-1", sandbox.VerbStart, "")
	p.untilReady("comes")
	p.untilGone("goes")
	if after := p.untilReady("stays").Status.ContainerStatuses[0]; after.ContainerID != before.ContainerID || after.RestartCount != 0 {
		t.Errorf("after the agent's end %+v", after)
	}
	killContainerd(t, "agent-1")
	p.kubectl("delete", "pod", "comes")
	if after := p.untilReady("stays").Status.ContainerStatuses[0]; after.ContainerID != before.ContainerID || after.RestartCount != 0 {
		t.Errorf("after containerd's end %+v", after)
	}
	p.sh("stays", "true")
}

func staticPod(p pods) {
	dir := filepath.Join(dataDir("agent-1"), "manifests")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.Fatal(err)
	}
	file := filepath.Join(dir, "e2e.yaml")
	p.Cleanup(func() { os.Remove(file) })
	write := func(says string) {
		p.Helper()
		manifest := strings.NewReplacer("NS", p.ns, "IMAGE", shellImage, "SAYS", says).Replace(`
apiVersion: v1
kind: Pod
metadata: {name: static, namespace: NS}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, print=SAYS, forever]}]}`)
		if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
			p.Fatal(err)
		}
	}
	write("one")
	first := p.untilReady("static-agent-1")
	if first.Annotations[corev1.MirrorPodAnnotationKey] == "" || len(first.OwnerReferences) != 1 || first.OwnerReferences[0].Name != "agent-1" {
		p.Errorf("%+v", first.ObjectMeta)
	}
	p.wantLog("static-agent-1", "app", "one\n")
	// The API server's copy may be deleted: the pod goes on, and its copy comes back.
	p.kubectl("delete", "pod", "static-agent-1", "--grace-period=0", "--force")
	back := p.until("static-agent-1", "back", func(pod *corev1.Pod) bool {
		return pod.UID != first.UID && podCondition(pod, corev1.PodReady) == corev1.ConditionTrue
	})
	if was, is := first.Status.ContainerStatuses[0].ContainerID, back.Status.ContainerStatuses[0].ContainerID; was != is {
		p.Errorf("container %s was replaced by %s when the mirror pod was deleted", was, is)
	}
	write("two")
	p.until("static-agent-1", "replaced", func(pod *corev1.Pod) bool {
		return podCondition(pod, corev1.PodReady) == corev1.ConditionTrue && pod.Status.ContainerStatuses[0].ContainerID != back.Status.ContainerStatuses[0].ContainerID
	})
	p.wantLog("static-agent-1", "app", "two\n")
	if err := os.Remove(file); err != nil {
		p.Fatal(err)
	}
	p.untilGone("static-agent-1")
}

// listenIn serves in a host's network namespace.
func listenIn(t *testing.T, host, address string) net.Listener {
	t.Helper()
	listener, err := socketIn(t, host, func() (net.Listener, error) { return net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}
