// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/hack/images/testimage"
)

func TestSecurityAndImages(t *testing.T) {
	n := Start(t, nil)
	run := func(t *testing.T, n *Node, pod *v1.Pod) string {
		t.Helper()
		n.Create(pod)
		return n.Log(n.WaitPhase(pod.Name, v1.PodSucceeded), "app", 0)
	}
	with := func(pod *v1.Pod, s v1.SecurityContext) *v1.Pod {
		pod.Spec.Containers[0].SecurityContext = &s
		return pod
	}
	runAll(t, n, []testCase{
		{"user, group and supplementary groups", func(t *testing.T, n *Node) {
			pod := Pod("user", "id")
			pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1234), RunAsGroup: ptr.To[int64](2345), SupplementalGroups: []int64{3456}}
			if log := run(t, n, pod); !strings.HasPrefix(log, "1234 2345 [") || !strings.Contains(log, "3456") {
				t.Errorf("log %q", log)
			}
		}},
		{"capabilities, seccomp and no new privileges", func(t *testing.T, n *Node) {
			pod := with(Pod("caps", "cat=/proc/self/status"), v1.SecurityContext{
				Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}}, AllowPrivilegeEscalation: ptr.To(false),
				SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault},
			})
			log := run(t, n, pod)
			for _, want := range []string{"CapEff:\t0000000000000400\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
				if !strings.Contains(log, want) {
					t.Errorf("lacks %q:\n%s", want, log)
				}
			}
		}},
		{"read-only root", func(t *testing.T, n *Node) {
			n.Create(with(Pod("readonly", "write=/file:x"), v1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true)}))
			n.WaitPhase("readonly", v1.PodFailed)
		}},
		{"root is refused where it may not be", func(t *testing.T, n *Node) {
			n.Create(with(Pod("nonroot", "id"), v1.SecurityContext{RunAsNonRoot: ptr.To(true)}))
			pod := n.Wait("nonroot", "refused", func(p *v1.Pod) bool {
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CreateContainerConfigError"
			})
			if !strings.Contains(pod.Status.ContainerStatuses[0].State.Waiting.Message, "runAsNonRoot") {
				t.Errorf("status %+v", pod.Status.ContainerStatuses[0])
			}
			n.Delete("nonroot")
		}},
		{"shared process namespace", func(t *testing.T, n *Node) {
			pod := Pod("shared", "exists=/proc/1/stat", "cat=/proc/1/comm")
			pod.Spec.ShareProcessNamespace = ptr.To(true)
			if log := run(t, n, pod); log != "pause\n" {
				t.Errorf("the first process is %q", log)
			}
		}},
		{"host network", func(t *testing.T, n *Node) {
			pod := Pod("hostnet", "cat=/proc/net/dev")
			pod.Spec.HostNetwork = true
			if log := run(t, n, pod); !strings.Contains(log, "nodetest0") {
				t.Errorf("no bridge among the interfaces:\n%s", log)
			}
		}},
		{"sysctls", func(t *testing.T, n *Node) {
			pod := Pod("sysctl", "cat=/proc/sys/kernel/shm_rmid_forced")
			pod.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}}}
			if log := run(t, n, pod); strings.TrimSpace(log) != "1" {
				t.Errorf("log %q", log)
			}
			bad := Pod("unsafe-sysctl", "id")
			bad.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "10000"}}}
			n.Create(bad)
			if pod := n.WaitPhase("unsafe-sysctl", v1.PodFailed); pod.Status.Reason != "SysctlForbidden" {
				t.Errorf("reason %q", pod.Status.Reason)
			}
		}},
		{"a private registry", func(t *testing.T, n *Node) {
			image, pulls := privateRegistry(t)
			pod := Pod("private", "forever")
			pod.Spec.Containers[0].Image, pod.Spec.Containers[0].ImagePullPolicy = image, v1.PullAlways
			pod.Spec.Containers[0].Command = []string{"/no"}
			n.Create(pod)
			n.Wait("private", "refused without a secret", func(p *v1.Pod) bool {
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ErrImagePull"
			})
			n.Delete("private")
			host, _, _ := strings.Cut(image, "/")
			auth := base64.StdEncoding.EncodeToString([]byte("user:secret"))
			secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pull"}, Type: v1.SecretTypeDockerConfigJson,
				Data: map[string][]byte{v1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth)}}
			if _, err := n.Client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			pod.Name, pod.ResourceVersion, pod.UID = "private-2", "", ""
			pod.Spec.Containers[0].Image = strings.Replace(image, "app:", "other:", 1) // no back-off yet
			pod.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: "pull"}}
			n.Create(pod)
			// The image is pulled; what is in it cannot run.
			n.WaitPhase("private-2", v1.PodFailed)
			if pulls.Load() == 0 || !hasEvent(n, "private-2", "Pulled") {
				t.Error(n.Events("private-2"))
			}
		}},
		{"image volume", func(t *testing.T, n *Node) {
			pod := Pod("imagevolume", "exists=/image/testapp", "print=there")
			pod.Spec.Volumes = []v1.Volume{{Name: "i", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "fairlead.io/testapp:1", PullPolicy: v1.PullIfNotPresent}}}}
			pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "i", MountPath: "/image"}}
			if log := run(t, n, pod); log != "there\n" {
				t.Errorf("log %q", log)
			}
		}},
		{"a thousand environment variables", func(t *testing.T, n *Node) {
			pod := Pod("manyenv", "print=$V999")
			for i := range 1000 {
				pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, v1.EnvVar{Name: fmt.Sprintf("V%d", i), Value: strings.Repeat("x", 50)})
			}
			if log := run(t, n, pod); log != strings.Repeat("x", 50)+"\n" {
				t.Errorf("log %q", log)
			}
		}},
	})
}

// privateRegistry serves an image of one small file to user:secret, and counts authenticated requests.
func privateRegistry(t *testing.T) (image string, authenticated *atomic.Int64) {
	t.Helper()
	authenticated = &atomic.Int64{}
	inner := registry.New(registry.Logger(log.New(bytes.NewBuffer(nil), "", 0)))
	open := atomic.Bool{}
	open.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !open.Load() && (!ok || user != "user" || password != "secret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		} else if ok {
			authenticated.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	for _, repository := range []string{"app", "other"} {
		if err := testimage.Push(t.Context(), server.URL, repository, "1", map[string]string{"file": "x\n"}); err != nil {
			t.Fatal(err)
		}
	}
	open.Store(false)
	return host + "/app:1", authenticated
}
