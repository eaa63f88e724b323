// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestPodLifecycle(t *testing.T) {
	runPods(t, "e2e-lifecycle", []podCase{
		{"probes of every kind by port names, and a readiness gate", probesOfEveryKind},
		{"a liveness probe restarts, a startup probe that never passes too", livenessAndStartup},
		{"init containers, a sidecar, hooks", initSidecarHooks},
		{"hooks that fail, hooks by HTTP and sleep", otherHooks},
		{"restart policies and rules", restarts},
		{"the end of a pod: order, signal, deadline", ends},
		{"active deadline", func(p pods) {
			p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: deadline}
spec: {activeDeadlineSeconds: 1, terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [sleep, "600"]}]}`)
			if pod := p.untilPhase("deadline", corev1.PodFailed); pod.Status.Reason != "DeadlineExceeded" {
				p.Errorf("reason %q", pod.Status.Reason)
			}
		}},
		{"termination messages, and a container out of memory", terminationMessages},
		{"kubectl debug", debugs},
		{"in-place resize", resizes},
		{"static pods have mirrors", staticPod},
	})
}

func probesOfEveryKind(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  readinessGates: [{conditionType: example.com/announced}]
  containers:
  - {name: exec, image: IMAGE, command: [sh, -c, 'sleep 1; touch /tmp/ok; sleep 600'], readinessProbe: {periodSeconds: 1, exec: {command: [cat, /tmp/ok]}}}
  - name: http
    image: IMAGE
    command: [/testapp, serve=8080]
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {periodSeconds: 1, tcpSocket: {port: web}}
    readinessProbe: {periodSeconds: 1, failureThreshold: 1, httpGet: {path: /healthz, port: web, httpHeaders: [{name: X-Who, value: probe}]}}
  - {name: tcp, image: IMAGE, command: [/testapp, serve=8081], ports: [{name: plain, containerPort: 8081}], livenessProbe: {periodSeconds: 1, tcpSocket: {port: plain}}}
  - {name: grpc, image: IMAGE, command: [/testapp, grpc=8082], livenessProbe: {periodSeconds: 1, grpc: {port: 8082}}, readinessProbe: {periodSeconds: 1, grpc: {port: 8082, service: up}}}
---
apiVersion: v1
kind: Pod
metadata: {name: unserved}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: grpc, image: IMAGE, command: [/testapp, grpc=8082], readinessProbe: {periodSeconds: 1, grpc: {port: 8082, service: down}}}
---
apiVersion: v1
kind: Pod
metadata: {name: hanging}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, command: [sleep, "600"], readinessProbe: {periodSeconds: 1, timeoutSeconds: 1, exec: {command: [sleep, "600"]}}}`)
	pod := p.until("probed", "with ready containers", func(pod *corev1.Pod) bool { return podCondition(pod, corev1.ContainersReady) == corev1.ConditionTrue })
	if podCondition(pod, corev1.PodReady) != corev1.ConditionFalse {
		p.Errorf("the pod is ready before its readiness gate is open: %v", pod.Status.Conditions)
	}
	p.kubectl("patch", "pod", "probed", "--subresource=status", "-p", `{"status":{"conditions":[{"type":"example.com/announced","status":"True"}]}}`)
	p.untilReady("probed")
	p.kubectl("exec", "probed", "-c", "http", "--", "touch", "/tmp/unhealthy")
	// What says so is the container: on a busy machine the exec probe beside it may fail too.
	pod = p.until("probed", "with a container that is not ready", func(pod *corev1.Pod) bool { return !containerStatus(pod, "http").Ready })
	if s := containerStatus(pod, "http"); podCondition(pod, corev1.PodReady) != corev1.ConditionFalse || s.RestartCount != 0 {
		p.Errorf("ready: %s, container: %+v", podCondition(pod, corev1.PodReady), s)
	}
	p.wantEvent("probed", "Warning Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500")
	p.wantEvent("unserved", "Warning Unhealthy: Readiness probe failed:", "NOT_SERVING")
	p.wantEvent("hanging", "Warning Unhealthy: Readiness probe", "timed out")
	if s := p.untilPhase("hanging", corev1.PodRunning).Status.ContainerStatuses[0]; s.Ready || s.RestartCount != 0 {
		p.Errorf("%+v", s)
	}
}

func livenessAndStartup(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: live}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, command: [/testapp, serve=8080], livenessProbe: {periodSeconds: 1, failureThreshold: 3, httpGet: {path: /healthz, port: 8080}}}
---
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, command: [sleep, "600"], startupProbe: {periodSeconds: 1, failureThreshold: 2, exec: {command: ["false"]}}}`)
	p.untilReady("live")
	p.sh("live", "touch /tmp/unhealthy")
	restarted := func(pod *corev1.Pod) bool {
		return len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].RestartCount > 0
	}
	p.until("live", "restarted", restarted)
	p.wantEvent("live", "Normal Killing: Container app failed liveness probe, will be restarted")
	pod := p.until("slow", "restarted", restarted)
	if podCondition(pod, corev1.PodReady) == corev1.ConditionTrue {
		p.Error("ready before its startup probe passed")
	}
	p.wantEvent("slow", "Warning Unhealthy: Startup probe failed")
}

func initSidecarHooks(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: work}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 10
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: first, image: IMAGE, command: [sh, -c, 'sleep 0.3; echo first >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}
  - name: beside
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, 'trap "echo sidecar ends after $(tail -n1 /v/order); exit 0" TERM; echo beside >> /v/order; touch /tmp/up; while :; do sleep 0.1; done']
    startupProbe: {periodSeconds: 1, exec: {command: [cat, /tmp/up]}}
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: last, image: IMAGE, command: [sh, -c, 'echo last >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'until grep -q hook /v/order; do sleep 0.1; done; echo app >> /v/order; cat /v/order']
    lifecycle: {postStart: {exec: {command: [sh, -c, 'echo hook >> /v/order']}}}
    volumeMounts: [{name: v, mountPath: /v}]
---
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec:
  terminationGracePeriodSeconds: 1
  initContainers: [{name: bad, image: IMAGE, command: [sh, -c, 'exit 4']}]
  containers: [{name: app, image: IMAGE, command: [sleep, "600"]}]`)
	pod := p.untilPhase("work", corev1.PodSucceeded)
	p.wantLog("work", "app", "first\nbeside\nlast\nhook\napp\n")
	p.until("work", "without its sidecar", func(pod *corev1.Pod) bool { return containerStatus(pod, "beside").State.Terminated != nil })
	p.wantLog("work", "beside", "sidecar ends after")
	if podCondition(pod, corev1.PodInitialized) != corev1.ConditionTrue || containerStatus(pod, "beside").RestartCount != 0 {
		p.Errorf("%+v", pod.Status)
	}
	pod = p.until("stuck", "stuck in its init container", func(pod *corev1.Pod) bool {
		s := containerStatus(pod, "bad")
		return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
	})
	if s := containerStatus(pod, "app").State.Waiting; s == nil || s.Reason != "PodInitializing" || containerStatus(pod, "bad").LastTerminationState.Terminated.ExitCode != 4 {
		p.Errorf("%+v", pod.Status)
	}
}

func otherHooks(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: hookless}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers: [{name: app, image: IMAGE, command: [sleep, "600"], lifecycle: {postStart: {exec: {command: [sh, -c, 'echo no luck; exit 3']}}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: hooked, finalizers: [example.com/hold]}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: app
    image: IMAGE
    command: [/testapp, serve=8080]
    ports: [{name: web, containerPort: 8080}]
    lifecycle: {postStart: {sleep: {seconds: 1}}, preStop: {httpGet: {path: /bye, port: web}}}
  - {name: sleeper, image: IMAGE, command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 0.1; done'], lifecycle: {preStop: {sleep: {seconds: 2}}}}`)
	p.untilPhase("hookless", corev1.PodFailed)
	p.wantEvent("hookless", "Warning FailedPostStartHook: PostStartHook failed")
	p.untilReady("hooked")
	began := time.Now()
	p.kubectl("delete", "pod", "hooked", "--wait=false")
	pod := p.until("hooked", "ended", func(pod *corev1.Pod) bool {
		return containerStatus(pod, "app").State.Terminated != nil && containerStatus(pod, "sleeper").State.Terminated != nil
	})
	if took := time.Since(began); took < 2*time.Second {
		p.Errorf("ending took %s: the hook that sleeps 2 s did not run", took)
	}
	if code := containerStatus(pod, "sleeper").State.Terminated.ExitCode; code != 0 {
		p.Errorf("the sleeper ended with %d: not asked, after its hook, to end", code)
	}
	for _, event := range p.events("hooked") {
		if strings.Contains(event, "Hook") {
			p.Error(event)
		}
	}
	p.kubectl("patch", "pod", "hooked", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	p.untilGone("hooked")
}

func restarts(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: always}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: ["true"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: on-failure}
spec:
  restartPolicy: OnFailure
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'test -f /v/seen || { touch /v/seen; exit 1; }'], volumeMounts: [{name: v, mountPath: /v}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, command: [sh, -c, 'exit 5']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ruled}
spec:
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'test -f /v/seen && exit 7; touch /v/seen; exit 42']
    restartPolicy: Never
    restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]
    volumeMounts: [{name: v, mountPath: /v}]`)
	s := p.untilWaiting("always", "CrashLoopBackOff").Status.ContainerStatuses[0]
	if s.RestartCount < 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.Reason != "Completed" {
		p.Errorf("%+v", s)
	}
	p.wantEvent("always", "Warning BackOff: Back-off restarting failed container app in pod always")
	for name, want := range map[string]struct {
		phase   corev1.PodPhase
		count   int32
		code    int32
		ended   string
		message string
	}{
		"on-failure": {corev1.PodSucceeded, 1, 0, "Completed", ""}, "never": {corev1.PodFailed, 0, 5, "Error", ""}, "ruled": {corev1.PodFailed, 1, 7, "Error", ""},
	} {
		s := p.untilPhase(name, want.phase).Status.ContainerStatuses[0]
		if s.RestartCount != want.count || s.State.Terminated == nil || s.State.Terminated.ExitCode != want.code || s.State.Terminated.Reason != want.ended {
			p.Errorf("%s: %+v, want %+v", name, s, want)
		}
	}
}

func ends(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ordered, finalizers: [example.com/hold]}
spec:
  terminationGracePeriodSeconds: 20
  os: {name: linux}
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - name: sidecar
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, 'trap "test -f /v/app-ended && exit 11; exit 12" TERM; while :; do sleep 0.1; done']
    volumeMounts: [{name: v, mountPath: /v}]
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'trap "sleep 0.5; touch /v/app-ended; exit 9" USR1; while :; do sleep 0.1; done']
    lifecycle: {stopSignal: SIGUSR1}
    volumeMounts: [{name: v, mountPath: /v}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn, finalizers: [example.com/hold]}
spec: {terminationGracePeriodSeconds: 2, containers: [{name: app, image: IMAGE, command: [/testapp, stubborn]}]}`)
	p.untilReady("ordered")
	p.untilReady("stubborn")
	began := time.Now()
	p.kubectl("delete", "pod", "ordered", "stubborn", "--wait=false")
	pod := p.until("ordered", "ended", func(pod *corev1.Pod) bool {
		return containerStatus(pod, "app").State.Terminated != nil && containerStatus(pod, "sidecar").State.Terminated != nil
	})
	if code := containerStatus(pod, "app").State.Terminated.ExitCode; code != 9 {
		p.Errorf("the app ended with %d, want 9: by its own signal", code)
	}
	if code := containerStatus(pod, "sidecar").State.Terminated.ExitCode; code != 11 {
		p.Errorf("the sidecar ended with %d, want 11: after the app", code)
	}
	if killed := p.ended("stubborn"); killed.ExitCode != 137 || killed.FinishedAt.Sub(began) < time.Second {
		p.Errorf("%+v, deleted at %s; want it killed after the grace period", killed, began)
	}
	p.kubectl("patch", "pod", "ordered", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	p.kubectl("patch", "pod", "stubborn", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	p.untilGone("ordered")
	p.untilGone("stubborn")
}

func terminationMessages(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: said}
spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, command: [sh, -c, 'echo -n why > /tmp/bye; exit 1'], terminationMessagePath: /tmp/bye}]}
---
apiVersion: v1
kind: Pod
metadata: {name: logged}
spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, command: [sh, -c, 'echo last words; exit 1'], terminationMessagePolicy: FallbackToLogsOnError}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, command: [/testapp, memory=256], resources: {limits: {memory: 32Mi}}}]}`)
	if s := p.ended("said"); s.Message != "why" {
		p.Errorf("%+v", s)
	}
	if s := p.ended("logged"); s.Message != "last words\n" {
		p.Errorf("%+v", s)
	}
	if s := p.ended("hungry"); s.Reason != "OOMKilled" || s.ExitCode != 137 {
		p.Errorf("%+v", s)
	}
}

func debugs(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: patient}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}`)
	p.untilReady("patient")
	p.kubectl("debug", "patient", "--image="+shellImage, "--image-pull-policy=IfNotPresent", "--target=app", "--container=doctor", "--profile=general", "--",
		"sh", "-c", "echo it runs $(tr '\\0' ' ' < /proc/1/cmdline)")
	p.until("patient", "examined", func(pod *corev1.Pod) bool {
		s := containerStatus(pod, "doctor")
		return s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	})
	p.wantLog("patient", "doctor", "it runs /testapp forever")
}

func resizes(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: resized}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: IMAGE
    command: [/testapp, forever]
    resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: NotRequired}]`)
	before := p.untilReady("resized").Status.ContainerStatuses[0].ContainerID
	limits := "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true" // version 2, version 1
	if got := strings.TrimSpace(p.sh("resized", limits)); got != "67108864" {
		p.Errorf("memory limit %s, want 64 MiB", got)
	}
	resize := func(cpu, memory string) {
		p.kubectl("patch", "pod", "resized", "--subresource=resize", "-p",
			`{"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":"`+cpu+`","memory":"32Mi"},"limits":{"cpu":"`+cpu+`","memory":"`+memory+`"}}}]}}`)
	}
	resize("200m", "96Mi")
	pod := p.until("resized", "resized", func(pod *corev1.Pod) bool {
		r := pod.Status.ContainerStatuses[0].Resources
		return r != nil && r.Limits.Cpu().String() == "200m" && r.Limits.Memory().String() == "96Mi" && podCondition(pod, corev1.PodResizeInProgress) == ""
	})
	if s := pod.Status.ContainerStatuses[0]; s.ContainerID != before || s.RestartCount != 0 || s.AllocatedResources.Cpu().String() != "200m" {
		p.Errorf("%+v", s)
	}
	if got := strings.TrimSpace(p.sh("resized", limits)); got != "100663296" {
		p.Errorf("memory limit %s, want 96 MiB", got)
	}
	resize("10000", "96Mi")
	pod = p.until("resized", "refused", func(pod *corev1.Pod) bool { return podCondition(pod, corev1.PodResizePending) == corev1.ConditionTrue })
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodResizePending && c.Reason != corev1.PodReasonInfeasible {
			p.Errorf("%+v, want it infeasible", c)
		}
	}
}
