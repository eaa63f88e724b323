// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/dataplane/kubelet/shutdown"
)

// until waits up to a minute for good.
func until(t *testing.T, what string, good func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !good(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (n *Node) condition(kind v1.NodeConditionType) v1.ConditionStatus {
	n.T.Helper()
	node, err := n.Client.CoreV1().Nodes().Get(n.T.Context(), NodeName, metav1.GetOptions{})
	if err != nil {
		n.T.Fatal(err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

// TestDiskFills: pods' disk runs full; the pod that filled it goes, the others stay, the node says so and recovers.
func TestDiskFills(t *testing.T) {
	n := Start(t, func(c *Config) {
		// The volumes' disk is small, and full when less than half is left: softly for a second first.
		if err := os.MkdirAll(c.Kubelet.DataDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", c.Kubelet.DataDir, "tmpfs", 0, "size=64m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(c.Kubelet.DataDir, unix.MNT_DETACH) })
		c.Kubelet.EvictionSoft, c.Kubelet.EvictionSoftGrace = map[string]string{"nodefs.available": "50%"}, map[string]time.Duration{"nodefs.available": time.Second}
		c.Kubelet.EvictionMaxPodGrace, c.Kubelet.EvictionPressureTransition = 10*time.Second, time.Second
	})
	volume := func(pod *v1.Pod) *v1.Pod {
		pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
		return pod
	}
	n.Create(volume(Pod("modest", "fill=/v/file:2", "forever")))
	n.WaitReady("modest")
	n.Create(volume(Pod("greedy", "fill=/v/file:40", "forever")))
	pod := n.WaitPhase("greedy", v1.PodFailed)
	if pod.Status.Reason != "Evicted" || !strings.HasPrefix(pod.Status.Message, "The node was low on resource: ephemeral-storage.") || ConditionOf(pod, v1.DisruptionTarget) != v1.ConditionTrue {
		t.Errorf("status %+v", pod.Status)
	}
	n.Wait("greedy", "ended by SIGTERM within its grace", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Terminated != nil && p.Status.ContainerStatuses[0].State.Terminated.ExitCode == 0
	})
	until(t, "disk pressure ends", func() bool { return n.condition(v1.NodeDiskPressure) == v1.ConditionFalse })
	if ConditionOf(n.Get("modest"), v1.PodReady) != v1.ConditionTrue {
		t.Error("the modest pod did not stay")
	}
	until(t, "pressure is noted for the scheduler", func() bool {
		node, err := n.Client.CoreV1().Nodes().Get(t.Context(), NodeName, metav1.GetOptions{})
		return err == nil && strings.HasPrefix(node.Annotations["fairlead.io/pressure"], "cpu=")
	})
}

// TestMachineShutsDown: pods end in the order of their priority, with their own signals, and say why.
func TestMachineShutsDown(t *testing.T) {
	n := Start(t, func(c *Config) {
		c.Kubelet.Shutdown = shutdown.Config{Grace: 20 * time.Second, GraceCritical: 10 * time.Second, OnTerm: true}
	})
	shared := filepath.Join(t.TempDir(), "order")
	if err := os.MkdirAll(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	make := func(name string, priority int32, args ...string) {
		pod := Pod(name, args...)
		pod.Spec.Priority = ptr.To(priority)
		if priority > 0 {
			pod.Spec.PriorityClassName = "system-cluster-critical"
		}
		pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](8)
		pod.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: inside("write=/v/"+name+":x", "sleep=1s")}
		pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: shared}}}}
		pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
		n.Create(pod)
		n.WaitReady(name)
	}
	make("critical", 2000000000, "forever")
	make("ordinary", 0, "forever")
	n.Down()
	var times []time.Time
	for _, name := range []string{"ordinary", "critical"} {
		info, err := os.Stat(filepath.Join(shared, name))
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, info.ModTime())
		pod := n.Get(name)
		if pod.Status.Phase != v1.PodFailed || pod.Status.Reason != shutdown.Reason || pod.Status.Message != shutdown.Message {
			t.Errorf("%s: %+v", name, pod.Status)
		}
		if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 0 {
			t.Errorf("%s: %+v", name, pod.Status.ContainerStatuses[0].State)
		}
	}
	if gap := times[1].Sub(times[0]); gap < time.Second {
		t.Errorf("the critical pod was ended %v after the ordinary one: before that had ended", gap)
	}
	if n.condition(v1.NodeReady) != v1.ConditionFalse {
		t.Error("the node does not say that it is shutting down")
	}
}

// dashboardSeries are what the dashboards and rules of kubernetes-mixin and kube-prometheus ask of a kubelet, by endpoint, each with a label it must
// have. Counters that only show once there was something to count (throttling, evictions, volumes bound to claims) are looked for elsewhere.
var dashboardSeries = map[string][]string{
	"metrics/cadvisor": {
		`container_cpu_usage_seconds_total{container="app",cpu="total"`, `container_cpu_usage_seconds_total{container="",cpu="total",id="/"`,
		`container_cpu_cfs_periods_total{container="app"`, `container_cpu_cfs_throttled_periods_total{container="app"`,
		`container_memory_working_set_bytes{container="app"`, `container_memory_rss{container="app"`, `container_memory_cache{container="app"`,
		`container_memory_swap{container="app"`, `container_memory_usage_bytes{container="app"`, `container_spec_memory_limit_bytes{container="app"`,
		`container_spec_cpu_quota{container="app"`, `container_spec_cpu_period{container="app"`, `container_oom_events_total{container="app"`,
		`container_network_receive_bytes_total{`, `container_network_transmit_bytes_total{`, `container_network_receive_packets_total{`,
		`container_network_transmit_packets_total{`, `container_network_receive_packets_dropped_total{`, `container_network_transmit_packets_dropped_total{`,
		`container_fs_usage_bytes{container="app"`, `container_fs_limit_bytes{container="app"`, `container_start_time_seconds{container="app"`,
		`container_last_seen{container="app"`, `container_processes{container="app"`, `machine_memory_bytes{`, `machine_cpu_cores{`,
		`container_pressure_cpu_waiting_seconds_total{container="app"`, `container_pressure_memory_stalled_seconds_total{container="app"`,
		`container_pressure_io_waiting_seconds_total{container="app"`,
	},
	"metrics": {
		`kubelet_running_pods `, `kubelet_running_containers{container_state="running"}`, `kubelet_node_name{node="node"} 1`,
		`kubelet_runtime_operations_total{operation_type="run_podsandbox"}`, `kubelet_runtime_operations_errors_total{`,
		`kubelet_runtime_operations_duration_seconds_bucket{operation_type="create_container",le="0.1"}`,
		`kubelet_pod_start_duration_seconds_bucket{`, `kubelet_pod_worker_duration_seconds_count{operation_type="sync"}`,
		`kubelet_cgroup_manager_duration_seconds_count{operation_type="create"}`, `kubelet_pleg_relist_duration_seconds_bucket{`,
		`kubelet_pleg_relist_interval_seconds_bucket{`, `storage_operation_duration_seconds_count{`,
		`volume_manager_total_volumes{plugin_name="kubernetes.io/empty-dir",state="actual_state_of_world"} 1`,
		`rest_client_requests_total{code="200"`, `rest_client_request_duration_seconds_bucket{`, `process_resident_memory_bytes `, `process_cpu_seconds_total `,
		`go_goroutines `, `kubelet_certificate_manager_server_ttl_seconds `, `kubernetes_build_info{`,
	},
	"metrics/resource": {
		`node_cpu_usage_seconds_total `, `node_memory_working_set_bytes `, `pod_cpu_usage_seconds_total{namespace="default",pod="server"}`,
		`pod_memory_working_set_bytes{`, `container_cpu_usage_seconds_total{container="app",namespace="default",pod="server"}`,
		`container_memory_working_set_bytes{`, `container_start_time_seconds{`, `resource_scrape_error 0`,
	},
	"metrics/probes": {`prober_probe_total{container="app",namespace="default",pod="server",pod_uid="`},
	"stats/summary":  {`"psi":{"full":{"total":`, `"io":{"time":`, `"systemContainers":[{"name":"kubelet"`, `"inodesUsed":`},
}
