// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

func mountsBelow(t *testing.T, dir string) (out []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], dir) {
			out = append(out, fields[4])
		}
	}
	return out
}

func TestVolumes(t *testing.T) {
	n := Start(t, nil)
	ctx := t.Context()
	configMap := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config"}, Data: map[string]string{"key": "one", "other": "two"}}
	if _, err := n.Client.CoreV1().ConfigMaps("default").Create(ctx, configMap, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, Data: map[string][]byte{"password": []byte("hush")}}
	if _, err := n.Client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	with := func(pod *v1.Pod, source v1.VolumeSource, mount v1.VolumeMount) *v1.Pod {
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: "v", VolumeSource: source})
		mount.Name, mount.MountPath = "v", "/v"
		for i := range pod.Spec.Containers {
			pod.Spec.Containers[i].VolumeMounts = append(pod.Spec.Containers[i].VolumeMounts, mount)
		}
		return pod
	}
	logOf := func(t *testing.T, n *Node, pod *v1.Pod) string {
		n.Create(pod)
		return n.Log(n.WaitPhase(pod.Name, v1.PodSucceeded), "app", 0)
	}
	runAll(t, n, []testCase{
		{"config map with modes and items", func(t *testing.T, n *Node) {
			log := logOf(t, n, with(Pod("cm", "cat=/v/dir/file", "ls=/v/dir/"), v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
				LocalObjectReference: v1.LocalObjectReference{Name: "config"}, DefaultMode: ptr.To[int32](0o640), Items: []v1.KeyToPath{{Key: "key", Path: "dir/file"}},
			}}, v1.VolumeMount{}))
			if log != "one-rw-r----- 0 0 file\n" {
				t.Errorf("log %q", log)
			}
		}},
		{"secret in memory, owned by fsGroup", func(t *testing.T, n *Node) {
			pod := with(Pod("sec", "cat=/v/password", "ls=/v/", "id", "forever"), v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "secret", DefaultMode: ptr.To[int32](0o400)}}, v1.VolumeMount{})
			pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), FSGroup: ptr.To[int64](2000)}
			n.Create(pod)
			pod = n.WaitReady("sec")
			n.UntilLog(pod, "app", func(log string) bool {
				return strings.HasPrefix(log, "hush-r--r----- 0 2000 password\n") && strings.Contains(log, "1000 1000 [") && strings.Contains(log, "2000")
			})
			dir := filepath.Join(n.Config.Kubelet.DataDir, "pods", string(pod.UID))
			if got := mountsBelow(t, dir); len(got) != 1 {
				t.Errorf("mounts %v", got)
			}
			n.Delete("sec")
			for range 100 {
				if _, err := os.Stat(dir); err != nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if got := mountsBelow(t, dir); len(got) != 0 {
				t.Errorf("left mounted: %v", got)
			}
		}},
		{"optional and missing", func(t *testing.T, n *Node) {
			log := logOf(t, n, with(Pod("optional", "ls=/v/", "print=ok"), v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
				LocalObjectReference: v1.LocalObjectReference{Name: "none"}, Optional: ptr.To(true)}}, v1.VolumeMount{}))
			if log != "ok\n" {
				t.Errorf("log %q", log)
			}
			n.Create(with(Pod("missing"), v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "none"}}, v1.VolumeMount{}))
			if !hasEvent(n, "missing", "FailedMount") {
				t.Error(n.Events("missing"))
			}
			n.Delete("missing")
		}},
		{"config map changes reach the container", func(t *testing.T, n *Node) {
			changing := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "changing"}, Data: map[string]string{"key": "old"}}
			if _, err := n.Client.CoreV1().ConfigMaps("default").Create(ctx, changing, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			n.Create(with(Pod("changes", "forever"), v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "changing"}}}, v1.VolumeMount{}))
			pod := n.WaitReady("changes")
			changing.Data["key"] = "new"
			if _, err := n.Client.CoreV1().ConfigMaps("default").Update(ctx, changing, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(n.Config.Kubelet.DataDir, "pods", string(pod.UID), "volumes/kubernetes.io~configmap/v/key")
			for range 500 {
				if data, _ := os.ReadFile(file); string(data) == "new" {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			t.Error("the new content did not arrive within 10 s")
		}},
		{"emptyDir in memory with a size", func(t *testing.T, n *Node) {
			limit := quantity("1Mi")
			log := logOf(t, n, with(Pod("memory", "write=/v/file:x", "cat=/v/file", "cat=/proc/self/mounts"), v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &limit}}, v1.VolumeMount{}))
			if !strings.Contains(log, "tmpfs /v tmpfs rw") || !strings.Contains(log, "size=1024k") {
				t.Errorf("log %q", log)
			}
		}},
		{"downward API and projected", func(t *testing.T, n *Node) {
			pod := Pod("projected", "cat=/v/labels", "cat=/v/cm/key", "cat=/v/cpu")
			pod.Labels = map[string]string{"a": "b", "c": "d"}
			log := logOf(t, n, with(pod, v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
				{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{
					{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
					{Path: "cpu", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "app", Resource: "requests.cpu"}},
				}}},
				{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "config"}, Items: []v1.KeyToPath{{Key: "key", Path: "cm/key"}}}},
			}}}, v1.VolumeMount{}))
			if log != "a=\"b\"\nc=\"d\"one0\n" {
				t.Errorf("log %q", log)
			}
		}},
		{"subPath", func(t *testing.T, n *Node) {
			pod := with(Pod("subpath", "write=/v/file:x", "ls=/all/sub/"), v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}, v1.VolumeMount{SubPathExpr: "sub/$(NAME)"})
			pod.Spec.Containers[0].Env = []v1.EnvVar{{Name: "NAME", Value: "deep"}}
			pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, v1.VolumeMount{Name: "v", MountPath: "/all"})
			if log := logOf(t, n, pod); !strings.HasSuffix(log, " 0 0 deep\n") {
				t.Errorf("log %q", log)
			}
		}},
		{"a link out of a volume is not followed", func(t *testing.T, n *Node) {
			outside := filepath.Join(t.TempDir(), "volume")
			if err := os.Mkdir(outside, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/etc", filepath.Join(outside, "escape")); err != nil {
				t.Fatal(err)
			}
			n.Create(with(Pod("escape", "ls=/v/"), v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: outside}}, v1.VolumeMount{SubPath: "escape"}))
			n.Wait("escape", "refused", func(p *v1.Pod) bool {
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CreateContainerConfigError"
			})
			n.Delete("escape")
		}},
		{"hostPath of the wrong type", func(t *testing.T, n *Node) {
			n.Create(with(Pod("wrong"), v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/etc/passwd", Type: ptr.To(v1.HostPathDirectory)}}, v1.VolumeMount{}))
			if !hasEvent(n, "wrong", "FailedMount") {
				t.Error(n.Events("wrong"))
			}
			n.Delete("wrong")
		}},
		{"hosts file with aliases", func(t *testing.T, n *Node) {
			pod := Pod("hosts", "cat=/etc/hosts", "cat=/etc/resolv.conf")
			pod.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.99", Hostnames: []string{"alias.example"}}}
			pod.Spec.Subdomain = "sub"
			log := logOf(t, n, pod)
			ip := n.Get("hosts").Status.PodIP
			for _, want := range []string{ip + "\thosts.sub.default.svc.cluster.local\thosts\n", "192.0.2.99\talias.example\n", "nameserver 192.0.2.53\n", "search default.svc.cluster.local svc.cluster.local cluster.local", "options ndots:5"} {
				if !strings.Contains(log, want) {
					t.Errorf("lacks %q:\n%s", want, log)
				}
			}
		}},
	})
}
