// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

func TestPortsTaken(t *testing.T) {
	began := time.Unix(1000, 0)
	pod := func(uid string, age time.Duration, ports ...v1.ContainerPort) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), CreationTimestamp: metav1.NewTime(began.Add(-age))}, Spec: v1.PodSpec{Containers: []v1.Container{{Ports: ports}}}}
	}
	port := func(number int32, ip string, protocol v1.Protocol) v1.ContainerPort {
		return v1.ContainerPort{ContainerPort: 80, HostPort: number, HostIP: ip, Protocol: protocol}
	}
	tcp := port(1, "", "")
	running := func(p *v1.Pod) podworker.View {
		return podworker.View{Pod: p, Observed: &observed.Pod{Sandboxes: make([]observed.Sandbox, 1)}}
	}
	new := func(p *v1.Pod) podworker.View { return podworker.View{Pod: p, Observed: &observed.Pod{}} }
	ended := running(pod("b", 0, tcp))
	ended.Ended = true
	failed := running(pod("b", 0, tcp))
	failed.Pod.Status.Phase = v1.PodFailed
	always := v1.ContainerRestartPolicyAlways
	sidecar := pod("b", 0)
	sidecar.Spec.InitContainers = []v1.Container{{Ports: []v1.ContainerPort{tcp}, RestartPolicy: &always}}
	once := pod("b", 0)
	once.Spec.InitContainers = []v1.Container{{Ports: []v1.ContainerPort{tcp}}}

	for _, test := range []struct {
		name  string
		pod   *v1.Pod
		other podworker.View
		want  bool
	}{
		{"the same port", pod("a", 0, tcp), running(pod("b", 0, tcp)), true},
		{"its own", pod("a", 0, tcp), running(pod("a", 0, tcp)), false},
		{"another port", pod("a", 0, tcp), running(pod("b", 0, port(2, "", ""))), false},
		{"none", pod("a", 0, v1.ContainerPort{ContainerPort: 1}), running(pod("b", 0, v1.ContainerPort{ContainerPort: 1})), false},
		{"another protocol", pod("a", 0, tcp), running(pod("b", 0, port(1, "", v1.ProtocolUDP))), false},
		{"other addresses", pod("a", 0, port(1, "127.0.0.1", "")), running(pod("b", 0, port(1, "192.0.2.1", v1.ProtocolTCP))), false},
		{"one address, and all", pod("a", 0, port(1, "127.0.0.1", "")), running(pod("b", 0, port(1, "0.0.0.0", ""))), true},
		{"all addresses, and one", pod("a", 0, port(1, "::", "")), running(pod("b", 0, port(1, "192.0.2.1", ""))), true},
		{"a sidecar's", pod("a", 0, tcp), running(sidecar), true},
		{"an init container's, which is over", pod("a", 0, tcp), running(once), false},
		{"of a pod that has ended", pod("a", 0, tcp), ended, false},
		{"of a pod that failed", pod("a", 0, tcp), failed, false},
		{"of an older pod that has not started yet", pod("a", 0, tcp), new(pod("b", time.Second, tcp)), true},
		{"of a younger pod that has not started yet", pod("a", time.Second, tcp), new(pod("b", 0, tcp)), false},
		{"of a younger pod that runs", pod("a", time.Second, tcp), running(pod("b", 0, tcp)), true},
		{"of a pod of the same second", pod("a", 0, tcp), new(pod("b", 0, tcp)), false},
		{"of a pod of the same second, the other way round", pod("b", 0, tcp), new(pod("a", 0, tcp)), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := portsTaken(test.pod, []podworker.View{test.other}); got != test.want {
				t.Errorf("taken: %t, want %t", got, test.want)
			}
		})
	}
}
