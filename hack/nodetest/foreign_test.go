// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/dataplane/containerd"
)

// debianContainerd starts Debian's containerd (1.6) with everything it writes below the node's directories, and gives it the test's images. stop ends it with
// all its containers.
func debianContainerd(t *testing.T, c *Config) (stop func()) {
	t.Helper()
	daemon, err := exec.LookPath("containerd")
	if err != nil {
		t.Fatalf("Debian's containerd is needed (Debian: containerd): %v", err)
	}
	dir := filepath.Join(c.RunDir, "foreign")
	networks := filepath.Join(c.DataDir, "containerd", "cni", "net.d")
	for _, d := range []string{dir, networks} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "containerd.sock")
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %q
`, filepath.Join(c.DataDir, "foreign"), filepath.Join(dir, "state"), socket, filepath.Join(c.DataDir, "opt"), containerd.SandboxImage, networks)
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(daemon, "--config", file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctr := func(args ...string) ([]byte, error) {
		return exec.Command("ctr", append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...).CombinedOutput()
	}
	stop = sync.OnceFunc(func() {
		tasks, _ := ctr("tasks", "list", "--quiet")
		for _, id := range strings.Fields(string(tasks)) {
			if out, err := ctr("tasks", "delete", "--force", id); err != nil {
				t.Errorf("end container %s: %v\n%s", id, err, out)
			}
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	until(t, "containerd answers", func() bool { _, err := ctr("version"); return err == nil })
	built, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "testapp.tar")
	if err := os.WriteFile(image, built.image, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, archive := range []string{image, "../../dataplane/containerd/pause/pause_amd64.tar"} {
		if out, err := ctr("images", "import", archive); err != nil {
			t.Fatalf("import %s: %v\n%s", archive, err, out)
		}
	}
	c.Foreign, c.Kubelet.CRIEndpoint = true, "unix://"+socket
	return stop
}

// TestDebianContainerd: a CRI runtime without an event stream and without what CRI learned after it runs pods all the same.
func TestDebianContainerd(t *testing.T) {
	identity := NewIdentity(t)
	var stop func()
	n := StartWith(t, identity.Server, func(c *Config) {
		identity.Node(c)
		stop = debianContainerd(t, c)
	})
	t.Cleanup(stop) // before the node's directories go
	ctx := t.Context()
	node, err := n.Client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
	if err != nil || !strings.HasPrefix(node.Status.NodeInfo.ContainerRuntimeVersion, "containerd://1.6") {
		t.Fatalf("runtime %q, %v", node.Status.NodeInfo.ContainerRuntimeVersion, err)
	}
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, Data: map[string][]byte{"word": []byte("hush")}}
	if _, err := n.Client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	serving := Pod("serving", "cat=/v/word", "print=$HOSTNAME", "forever")
	serving.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "secret"}}}}
	serving.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
	serving.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: inside("exists=/v/word").Exec}}
	serving.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: inside("print=hook")}
	serving.Spec.InitContainers = []v1.Container{sidecar(Container("beside", "forever"))}
	crashing := Pod("crashing", "exit=1")
	crashing.Spec.RestartPolicy = v1.RestartPolicyAlways
	own := Pod("own-users", "forever")
	own.Spec.HostUsers = ptr.To(false)
	hungry := Pod("hungry", "sleep=500ms", "memory=256") // the runtime begins to watch for it after the start
	hungry.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: quantity("32Mi")}
	fromImage := Pod("from-image", "forever")
	fromImage.Spec.Volumes = []v1.Volume{{Name: "i", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "fairlead.io/testapp:1", PullPolicy: v1.PullIfNotPresent}}}}
	fromImage.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "i", MountPath: "/i"}}
	began := time.Now()
	for _, pod := range []*v1.Pod{serving, crashing, own, hungry, fromImage} {
		n.Create(pod)
	}
	pod := n.WaitReady("serving")
	t.Logf("ready %s after its creation", time.Since(began).Round(time.Millisecond))
	n.UntilLog(pod, "app", func(log string) bool { return log == "hushserving\n" })
	if out, err := n.exec("serving", "in\n", "/testapp", "echo"); err != nil || out != "in\n" {
		t.Errorf("exec %q, %v", out, err)
	}
	n.Wait("crashing", "restarted", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if s := n.WaitPhase("hungry", v1.PodFailed).Status.ContainerStatuses[0].State.Terminated; s.Reason != "OOMKilled" {
		t.Errorf("%+v", s)
	}
	if !hasEvent(n, "own-users", "FailedCreatePodSandBox") {
		t.Error(n.Events("own-users"))
	}
	if !hasEvent(n, "from-image", "Failed") {
		t.Errorf("a volume that the runtime cannot make: %v", n.Events("from-image"))
	}
	until(t, "the pod's memory is known", func() bool {
		data, err := n.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + NodeName + "/proxy/metrics/resource").DoRaw(ctx)
		return err == nil && strings.Contains(string(data), `container_memory_working_set_bytes{container="app",namespace="default",pod="serving"}`)
	})
	n.Down() // the agent starts again: the container is the same
	n.Up()
	if after := n.WaitReady("serving").Status.ContainerStatuses[0]; after.ContainerID != pod.Status.ContainerStatuses[0].ContainerID || after.RestartCount != 0 {
		t.Errorf("%+v", after)
	}
	for _, name := range []string{"serving", "crashing", "own-users", "hungry", "from-image"} {
		n.Delete(name)
	}
}
