// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) {
	Main(m, func() error { _, err := newRunc(); return err })
}

// each runs f for every case beside the others, on the same node.
type testCase struct {
	name string
	run  func(t *testing.T, n *Node)
}

func runAll(t *testing.T, n *Node, cases []testCase) {
	t.Run("pods", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, n.In(t))
			})
		}
	})
}

func sidecar(c v1.Container) v1.Container {
	c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	return c
}

func inside(words ...string) *v1.LifecycleHandler {
	return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: append([]string{"/testapp"}, words...)}}
}

// hasEvent waits for an event with this reason.
func hasEvent(n *Node, pod, reason string) bool {
	for range 250 {
		if slices.ContainsFunc(n.Events(pod), func(e string) bool { return strings.Contains(e, " "+reason+": ") }) {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

func TestLifecycle(t *testing.T) {
	n := Start(t, nil)
	runAll(t, n, []testCase{
		{"runs to completion", func(t *testing.T, n *Node) {
			n.Create(Pod("done", "print=hello", "write=/dev/termination-log:bye"))
			pod := n.WaitPhase("done", v1.PodSucceeded)
			if log := n.Log(pod, "app", 0); log != "hello\n" {
				t.Errorf("log %q", log)
			}
			if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 0 || s.Message != "bye" || s.Reason != "Completed" {
				t.Errorf("state %+v", pod.Status.ContainerStatuses[0].State)
			}
			n.Delete("done")
		}},
		{"fails", func(t *testing.T, n *Node) {
			pod := Pod("fails", "print=the end", "exit=3")
			pod.Spec.Containers[0].TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
			n.Create(pod)
			pod = n.WaitPhase("fails", v1.PodFailed)
			if s := pod.Status.ContainerStatuses[0].State.Terminated; s.ExitCode != 3 || s.Reason != "Error" || s.Message != "the end\n" {
				t.Errorf("state %+v", s)
			}
		}},
		{"is ready and ends gracefully", func(t *testing.T, n *Node) {
			n.Create(Pod("long", "forever"))
			pod := n.WaitReady("long")
			if !strings.HasPrefix(pod.Status.PodIP, "198.18.") || pod.Status.HostIP != NodeIP || pod.Status.StartTime == nil || pod.Status.QOSClass != v1.PodQOSBestEffort {
				t.Errorf("status %+v", pod.Status)
			}
			began := time.Now()
			n.Delete("long")
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("ending took %v", took)
			}
		}},
		{"is killed after its grace period", func(t *testing.T, n *Node) {
			pod := Pod("stubborn", "stubborn")
			pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](2)
			n.Create(pod)
			n.WaitReady("stubborn")
			began := time.Now()
			n.Delete("stubborn")
			if took := time.Since(began); took < 2*time.Second || took > 10*time.Second {
				t.Errorf("ending took %v", took)
			}
		}},
		{"restarts with back-off", func(t *testing.T, n *Node) {
			pod := Pod("crash", "exit=1")
			pod.Spec.RestartPolicy = v1.RestartPolicyAlways
			n.Create(pod)
			pod = n.Wait("crash", "in CrashLoopBackOff", func(p *v1.Pod) bool {
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff" && s[0].RestartCount >= 1
			})
			if s := pod.Status.ContainerStatuses[0]; s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 1 || pod.Status.Phase != v1.PodRunning {
				t.Errorf("status %+v", pod.Status)
			}
			n.Delete("crash")
		}},
		{"init containers run in order, then the others", func(t *testing.T, n *Node) {
			pod := Pod("init", "cat=/shared/order", "exists=/shared/order", "sleep=500ms")
			pod.Spec.Volumes = []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			mount := []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
			first, second := Container("first", "write=/shared/order:first", "sleep=300ms"), Container("second", "exists=/shared/order", "write=/shared/order:second")
			first.VolumeMounts, second.VolumeMounts, pod.Spec.Containers[0].VolumeMounts = mount, mount, mount
			pod.Spec.InitContainers = []v1.Container{first, second}
			n.Create(pod)
			pod = n.WaitPhase("init", v1.PodSucceeded)
			if log := n.Log(pod, "app", 0); strings.TrimSpace(log) != "second" {
				t.Errorf("log %q", log)
			}
			if s := pod.Status.InitContainerStatuses; !s[0].Ready || !s[1].Ready || s[0].State.Terminated == nil || ConditionOf(pod, v1.PodInitialized) != v1.ConditionTrue {
				t.Errorf("status %+v", s)
			}
		}},
		{"a failed init container fails a pod that never restarts", func(t *testing.T, n *Node) {
			pod := Pod("init-fails", "print=never")
			pod.Spec.InitContainers = []v1.Container{Container("bad", "exit=1")}
			n.Create(pod)
			pod = n.WaitPhase("init-fails", v1.PodFailed)
			if pod.Status.ContainerStatuses[0].State.Waiting == nil {
				t.Errorf("status %+v", pod.Status.ContainerStatuses)
			}
		}},
		{"a sidecar runs beside a job and ends after it", func(t *testing.T, n *Node) {
			pod := Pod("job", "sleep=300ms", "print=done")
			pod.Spec.InitContainers = []v1.Container{sidecar(Container("helper", "forever"))}
			n.Create(pod)
			pod = n.WaitPhase("job", v1.PodSucceeded)
			n.Wait("job", "without its sidecar", func(p *v1.Pod) bool { return p.Status.InitContainerStatuses[0].State.Terminated != nil })
			if log := n.Log(pod, "helper", 0); log != "terminated\n" {
				t.Errorf("the sidecar was not asked to end: %q", log)
			}
		}},
		{"hooks run", func(t *testing.T, n *Node) {
			pod := Pod("hooks", "forever")
			pod.Spec.Volumes = []v1.Volume{{Name: "shared", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			watcher := Container("watcher", "sleep=1s", "forever")
			for _, c := range []*v1.Container{&pod.Spec.Containers[0], &watcher} {
				c.VolumeMounts = []v1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
			}
			pod.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: inside("write=/shared/started:yes"), PreStop: inside("exists=/shared/started", "sleep=500ms")}
			pod.Spec.Containers = append(pod.Spec.Containers, watcher)
			n.Create(pod)
			n.WaitReady("hooks")
			began := time.Now()
			n.Delete("hooks")
			if took := time.Since(began); took < 500*time.Millisecond {
				t.Errorf("ending took %v: the hook did not run", took)
			}
			if slices.ContainsFunc(n.Events("hooks"), func(e string) bool { return strings.Contains(e, "Hook") }) {
				t.Error(n.Events("hooks"))
			}
		}},
		{"a failing post-start hook kills the container", func(t *testing.T, n *Node) {
			pod := Pod("bad-hook", "forever")
			pod.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: inside("exit=1")}
			n.Create(pod)
			n.WaitPhase("bad-hook", v1.PodSucceeded) // testapp ends with 0 on SIGTERM
			if !hasEvent(n, "bad-hook", "FailedPostStartHook") {
				t.Error(n.Events("bad-hook"))
			}
		}},
		{"readiness follows its probe", func(t *testing.T, n *Node) {
			pod := Pod("readiness", "sleep=2s", "write=/tmp/ready:yes", "forever")
			pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: inside("exists=/tmp/ready").Exec}}
			n.Create(pod)
			pod = n.WaitPhase("readiness", v1.PodRunning)
			if ConditionOf(pod, v1.PodReady) == v1.ConditionTrue {
				t.Error("ready before its probe passed")
			}
			n.WaitReady("readiness")
		}},
		{"liveness restarts", func(t *testing.T, n *Node) {
			pod := Pod("liveness", "serve=8080")
			pod.Spec.RestartPolicy = v1.RestartPolicyAlways
			pod.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: inside("sleep=1s", "write=/tmp/unhealthy:x")}
			pod.Spec.Containers[0].LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 2,
				ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
			n.Create(pod)
			n.Wait("liveness", "restarted", func(p *v1.Pod) bool {
				return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1
			})
			if !hasEvent(n, "liveness", "Unhealthy") || !hasEvent(n, "liveness", "Killing") {
				t.Error(n.Events("liveness"))
			}
			n.Delete("liveness")
		}},
		{"active deadline", func(t *testing.T, n *Node) {
			pod := Pod("deadline", "forever")
			pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](1)
			n.Create(pod)
			pod = n.WaitPhase("deadline", v1.PodFailed)
			if pod.Status.Reason != "DeadlineExceeded" {
				t.Errorf("reason %q", pod.Status.Reason)
			}
		}},
		{"image that does not exist", func(t *testing.T, n *Node) {
			pod := Pod("no-image")
			pod.Spec.Containers[0].Image = "127.0.0.1:1/none:1"
			n.Create(pod)
			n.Wait("no-image", "waiting for its image", func(p *v1.Pod) bool {
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ImagePullBackOff"
			})
			n.Delete("no-image")
		}},
		{"image that may not be pulled", func(t *testing.T, n *Node) {
			pod := Pod("never")
			pod.Spec.Containers[0].Image, pod.Spec.Containers[0].ImagePullPolicy = "fairlead.io/none:1", v1.PullNever
			n.Create(pod)
			n.Wait("never", "told", func(p *v1.Pod) bool {
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ErrImageNeverPull"
			})
			n.Delete("never")
		}},
		{"command that does not exist", func(t *testing.T, n *Node) {
			pod := Pod("no-command")
			pod.Spec.Containers[0].Command = []string{"/no/such/program"}
			n.Create(pod)
			pod = n.WaitPhase("no-command", v1.PodFailed)
			if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 128 || s.Reason != "StartError" {
				t.Errorf("state %+v", pod.Status.ContainerStatuses[0])
			}
		}},
		{"ephemeral container", func(t *testing.T, n *Node) {
			n.Create(Pod("debugged", "forever"))
			pod := n.WaitReady("debugged")
			pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon(Container("debugger", "print=here"))}}
			if _, err := n.Client.CoreV1().Pods(metav1.NamespaceDefault).UpdateEphemeralContainers(t.Context(), "debugged", pod, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			n.Wait("debugged", "debugged", func(p *v1.Pod) bool {
				s := p.Status.EphemeralContainerStatuses
				return len(s) == 1 && s[0].State.Terminated != nil && s[0].State.Terminated.ExitCode == 0
			})
		}},
		{"static order of environment, services and the downward API", func(t *testing.T, n *Node) {
			pod := Pod("env", "env")
			pod.Labels = map[string]string{"app": "x"}
			pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: quantity("250m"), v1.ResourceMemory: quantity("32Mi")}
			pod.Spec.Containers[0].Env = []v1.EnvVar{
				{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)-$(NOPE)-$$(A)"},
				{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
				{Name: "APP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}},
				{Name: "CPU", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "requests.cpu", Divisor: quantity("1m")}}},
			}
			n.Create(pod)
			pod = n.WaitPhase("env", v1.PodSucceeded)
			log := n.Log(pod, "app", 0)
			for _, want := range []string{"A=1\n", "B=1-$(NOPE)-$(A)\n", "IP=" + pod.Status.PodIP + "\n", "APP=x\n", "CPU=250\n", "HOSTNAME=env\n"} {
				if !strings.Contains(log, want) {
					t.Errorf("environment lacks %q:\n%s", want, log)
				}
			}
		}},
		{"over the size of its emptyDir", func(t *testing.T, n *Node) {
			limit := quantity("1Mi")
			pod := Pod("filler", "fill=/v/file:3", "forever")
			pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
			pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
			n.Create(pod)
			pod = n.WaitPhase("filler", v1.PodFailed)
			if pod.Status.Reason != "Evicted" || ConditionOf(pod, v1.DisruptionTarget) != v1.ConditionTrue || !strings.Contains(pod.Status.Message, "EmptyDir") {
				t.Errorf("status %+v", pod.Status)
			}
		}},
		{"out of memory", func(t *testing.T, n *Node) {
			pod := Pod("oom", "memory=256")
			pod.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: quantity("32Mi")}
			n.Create(pod)
			pod = n.WaitPhase("oom", v1.PodFailed)
			if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
				t.Errorf("state %+v", s)
			}
		}},
	})
}
