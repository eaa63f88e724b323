// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/hack/runc"
	"github.com/fairlead/fairlead/hack/testcluster"
)

// ownUsers returns a pod with a user namespace of its own.
func ownUsers(name string, args ...string) *v1.Pod {
	pod := Pod(name, args...)
	pod.Spec.HostUsers = ptr.To(false)
	return pod
}

// mark is an argument that only processes of this node have: processes of other tests on the machine are seen too.
func (n *Node) mark() string { return "only=" + filepath.Base(n.Config.RunDir) }

// processOf returns the host's process whose command line has this argument of testapp.
func processOf(t *testing.T, argument string) int {
	t.Helper()
	found := 0
	until(t, "a process with argument "+argument, func() bool {
		names, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			line, _ := os.ReadFile(name)
			if words := bytes.Split(line, []byte{0}); len(words) > 1 && strings.HasSuffix(string(words[0]), "testapp") && bytes.Contains(line, []byte(argument)) {
				found, _ = strconv.Atoi(filepath.Base(filepath.Dir(name)))
			}
		}
		return found != 0
	})
	return found
}

// firstID is the host's id that uid_map, which a container's log begins with, has for 0; it is an error of the test when the map is not one range of 65536.
func firstID(t *testing.T, n *Node, pod *v1.Pod, attempt int) int {
	t.Helper()
	var fields []string
	until(t, "uid_map of "+pod.Name, func() bool {
		fields = strings.Fields(n.Log(pod, "app", attempt))
		return len(fields) >= 3
	})
	if fields[0] != "0" || fields[2] != "65536" {
		t.Fatalf("uid_map of %s: %q", pod.Name, fields)
	}
	first, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// newRunc returns a runc that can make user namespaces. It is built outside the tests' namespaces, which reach no module proxy.
func newRunc() (string, error) {
	root, err := testcluster.Root()
	if err != nil {
		return "", err
	}
	return runc.Build(context.Background(), filepath.Join(root, "bin", "tools"))
}

// TestUserNamespace: a pod's root is nobody on the host, reads and writes its volumes all the same, and keeps its ids as long as it lives.
func TestUserNamespace(t *testing.T) {
	binary, err := newRunc()
	if err != nil {
		t.Fatal(err)
	}
	n := Start(t, func(c *Config) { c.Containerd.RuncBinary = binary })
	n.Down()
	n.Spawn()
	if _, err := n.Client.CoreV1().ConfigMaps("default").Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": "from-config\n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Client.CoreV1().Secrets("default").Create(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "from-secret\n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	private := ptr.To[int32](0o400)
	mark := n.mark()
	pod := ownUsers("first", "cat=/proc/self/uid_map", "id", "write=/v/file:x", "cat=/c/k", "cat=/s/k", "cat=/p/name", "print=", "forever", mark)
	pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	pod.Spec.Volumes = []v1.Volume{
		{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "m", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
		{Name: "c", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "c"}, DefaultMode: private}}},
		{Name: "s", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: private}}},
		{Name: "p", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{DefaultMode: private, Sources: []v1.VolumeProjection{{DownwardAPI: &v1.DownwardAPIProjection{
			Items: []v1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}}}}},
	}
	for _, volume := range pod.Spec.Volumes {
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, v1.VolumeMount{Name: volume.Name, MountPath: "/" + volume.Name})
	}
	n.Create(pod)
	n.Create(ownUsers("second", "cat=/proc/self/uid_map", "forever"))
	pod = n.WaitReady("first")
	first, second := firstID(t, n, pod, 0), firstID(t, n, n.WaitReady("second"), 0)
	if first < 65536 || second < 65536 || first == second {
		t.Errorf("the pods' ids begin at %d and %d", first, second)
	}
	until(t, "the pod's root has read its volumes", func() bool {
		return strings.HasSuffix(n.Log(pod, "app", 0), " 65536\n0 0 [0]\nfrom-config\nfrom-secret\nfirst\n")
	})
	// Outside, its process is of its range, and what it wrote is as if root had written it: the mount maps ids, not the disk.
	process := processOf(t, mark)
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", process), &st); err != nil || int(st.Uid) != first {
		t.Errorf("the pod's process is of user %d on the host, want %d: %v", st.Uid, first, err)
	}
	written := filepath.Join(n.Config.Kubelet.DataDir, "pods", string(pod.UID), "volumes/kubernetes.io~empty-dir/v/file")
	if err := unix.Stat(written, &st); err != nil || st.Uid != 0 || st.Size != 1 {
		t.Errorf("%s is of user %d, %d bytes: %v", written, st.Uid, st.Size, err)
	}

	// An agent that was killed still knows who has what, and gives away what was given back.
	n.Kill()
	n.Spawn()
	if s := n.WaitReady("first").Status.ContainerStatuses[0]; s.RestartCount != 0 {
		t.Errorf("after the agent's end %+v", s)
	}
	n.Create(ownUsers("third", "cat=/proc/self/uid_map", "forever"))
	if third := firstID(t, n, n.WaitReady("third"), 0); third == first || third == second {
		t.Errorf("the third pod's ids begin at %d, as another's do", third)
	}
	if err := unix.Kill(process, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := n.Wait("first", "started again", func(p *v1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount > 0 && s[0].State.Running != nil && s[0].Ready
	})
	if next := firstID(t, n, again, int(again.Status.ContainerStatuses[0].RestartCount)); next != first {
		t.Errorf("the pod's ids began at %d, and begin at %d in its next container", first, next)
	}
	n.Delete("first")
	n.Create(ownUsers("fourth", "cat=/proc/self/uid_map", "forever"))
	if fourth := firstID(t, n, n.WaitReady("fourth"), 0); fourth != first {
		t.Errorf("the fourth pod's ids begin at %d, want %d, which the first pod gave back", fourth, first)
	}
}

// TestUserNamespaceRefused: where the runtime cannot, the pod is told why not, and others run.
func TestUserNamespaceRefused(t *testing.T) {
	known, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "runc") // as those before 1.1, it does not know the question
	if err := os.WriteFile(old, fmt.Appendf(nil, "#!/bin/sh\nfor word; do [ \"$word\" = features ] && exit 1; done\nexec %s \"$@\"\n", known), 0o755); err != nil {
		t.Fatal(err)
	}
	n := Start(t, func(c *Config) { c.Containerd.RuncBinary = old })
	n.Create(ownUsers("own-users", "forever"))
	until(t, "the pod is told why", func() bool {
		return slices.ContainsFunc(n.Events("own-users"), func(e string) bool { return strings.Contains(e, "runc 1.2 or newer") })
	})
	n.Create(Pod("plain", "forever"))
	n.WaitReady("plain")
	n.Delete("own-users")
}
