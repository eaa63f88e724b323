// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// TestNodeBehaviours tries entries of sig-node in Kubernetes' conformance list.
func TestNodeBehaviours(t *testing.T) {
	runBehaviours(t, "node", []behaviour{
		{"hooks by HTTP and HTTPS reach another pod, before the end and after the start", remoteHooks},
		{"commands and logs over websockets", websockets},
		{"ephemeral containers one after the other", ephemerals},
		{"a path that does not expand, until it is mended", lateExpansion},
		{"paths that must not be", badExpansion},
		{"/etc/hosts: the kubelet's own, one that is mounted, the host's", etcHosts},
		{"probes: redirects, their own grace period, a first delay", unusualProbes},
		{"the image's command and arguments, and others in place of them", commands},
		{"restarts by policy, init containers that fail", initFailures},
		{"messages of the end", endMessages},
		{"sysctls that are safe, and names that are none", sysctls},
		{"RuntimeClasses that are not there, or no more", runtimeClasses},
		{"a pod's status: patched, replaced, watched to its end", podStatuses},
		{"a pod's generation is observed", generations},
		{"a deadline that is set later", laterDeadline},
		{"limits that are not set are the node's", nodeLimits},
		{"names of services, and keys that are empty", serviceVariables},
	})
}

// untilLogged waits until a container's log has the line.
func (b trial) untilLogged(pod, line string) {
	b.Helper()
	b.eventually(func() error {
		if log := b.log(pod, ""); !strings.Contains(log, line+"\n") {
			return fmt.Errorf("the log of %s lacks %q: %q", pod, line, log)
		}
		return nil
	})
}

func remoteHooks(b trial) {
	b.servers("server")
	ip := b.untilReady("server").Status.PodIP
	hook := func(kind, scheme string, port int) string {
		return fmt.Sprintf(`%s: {httpGet: {host: %q, scheme: %s, port: %d, path: /seen/%s-%s, httpHeaders: [{name: X-Who, value: hook}]}}`, kind, ip, scheme, port, kind, scheme)
	}
	for scheme, port := range map[string]int{"HTTP": 8080, "HTTPS": 8443} {
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + strings.ToLower(scheme) + `}, spec: {terminationGracePeriodSeconds: 20,
containers: [{name: app, image: IMAGE, command: [/testapp, forever], lifecycle: {` + hook("postStart", scheme, port) + `, ` + hook("preStop", scheme, port) + `}}]}}`)
	}
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: exec}, spec: {terminationGracePeriodSeconds: 20,
containers: [{name: app, image: IMAGE, command: [/testapp, forever], lifecycle: {
postStart: {exec: {command: [/testapp, 'get=http://` + ip + `:8080/seen/exec-start']}}, preStop: {exec: {command: [/testapp, 'get=http://` + ip + `:8080/seen/exec-stop']}}}}]}}`)
	for _, name := range []string{"http", "https", "exec"} {
		b.untilReady(name)
	}
	for _, line := range []string{"GET /seen/postStart-HTTP hook", "GET /seen/postStart-HTTPS hook", "GET /seen/exec-start "} {
		b.untilLogged("server", line)
	}
	for _, name := range []string{"http", "https", "exec"} {
		b.must(env.client.CoreV1().Pods(b.ns).Delete(b.Context(), name, metav1.DeleteOptions{}))
		b.untilGone(name)
	}
	for _, line := range []string{"GET /seen/preStop-HTTP hook", "GET /seen/preStop-HTTPS hook", "GET /seen/exec-stop "} {
		b.untilLogged("server", line)
	}
}

func websockets(b trial) {
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, print=spoken, forever]}]}}`)
	b.untilReady("p")
	b.untilLogged("p", "spoken")
	tlsConfig, err := rest.TLSConfigFor(b.config)
	b.must(err)
	read := func(path, protocol string) (frames []string) {
		b.Helper()
		dialer := websocket.Dialer{TLSClientConfig: tlsConfig, Subprotocols: []string{protocol}, HandshakeTimeout: 10 * time.Second}
		conn, response, err := dialer.DialContext(b.Context(), strings.Replace(b.config.Host, "https:", "wss:", 1)+"/api/v1/namespaces/"+b.ns+"/pods/p/"+path, nil)
		if err != nil {
			b.Fatalf("%s by %s: %v %v", path, protocol, err, response)
		}
		defer conn.Close()
		b.must(conn.SetReadDeadline(time.Now().Add(podPatience)))
		for {
			_, data, err := conn.ReadMessage()
			if err != nil {
				return frames
			}
			if len(data) > 0 {
				frames = append(frames, string(data))
			}
		}
	}
	for _, protocol := range []string{"channel.k8s.io", "v4.channel.k8s.io", "v5.channel.k8s.io"} {
		var out string
		for _, frame := range read("exec?stdout=1&stderr=1&container=app&command=echo&command=remote+command", protocol) {
			if frame[0] == 1 {
				out += frame[1:]
			}
		}
		if out != "remote command\n" {
			b.Errorf("exec by %s: %q", protocol, out)
		}
	}
	if frames := read("exec?stdout=1&command=echo&command=x", "base64.channel.k8s.io"); !strings.Contains(strings.Join(frames, " "), "1eAo=") {
		b.Errorf("exec by base64.channel.k8s.io: %q", frames)
	}
	if out := strings.Join(read("log?container=app", "binary.k8s.io"), ""); out != "spoken\n" {
		b.Errorf("log: %q", out)
	}
}

func ephemerals(b trial) {
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}`)
	b.untilReady("p")
	pods := env.client.CoreV1().Pods(b.ns)
	if _, err := pods.Patch(b.Context(), "p", types.StrategicMergePatchType, []byte(`{"spec":{"ephemeralContainers":[{"name":"one","image":"`+shellImage+`","command":["/testapp","print=polo","forever"]}]}}`), metav1.PatchOptions{}, "ephemeralcontainers"); err != nil {
		b.Fatal(err)
	}
	running := func(name string) *corev1.Pod {
		b.Helper()
		return b.until("p", "with "+name+" running", func(pod *corev1.Pod) bool { return containerStatus(pod, name).State.Running != nil })
	}
	pod := running("one")
	b.eventually(func() error {
		if log := b.log("p", "one"); log != "polo\n" {
			return fmt.Errorf("%q", log)
		}
		return nil
	})
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "two", Image: shellImage, Command: []string{"/testapp", "forever"}}})
	_, err := pods.UpdateEphemeralContainers(b.Context(), "p", pod, metav1.UpdateOptions{})
	b.must(err)
	if pod = running("two"); len(pod.Spec.EphemeralContainers) != 2 {
		b.Errorf("%d ephemeral containers", len(pod.Spec.EphemeralContainers))
	}
}

func lateExpansion(b trial) {
	b.create(`
apiVersion: v1
kind: Pod
metadata: {name: p, annotations: {part: ../up}}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: app
    image: IMAGE
    command: [/testapp, forever]
    env: [{name: PART, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['part']"}}}]
    volumeMounts: [{name: v, mountPath: /part, subPathExpr: part/$(PART)}, {name: v, mountPath: /whole}]`)
	b.untilWaiting("p", "CreateContainerConfigError")
	_, err := env.client.CoreV1().Pods(b.ns).Patch(b.Context(), "p", types.MergePatchType, []byte(`{"metadata":{"annotations":{"part":"mended"}}}`), metav1.PatchOptions{})
	b.must(err)
	b.untilReady("p")
	b.sh("p", "touch /part/x && test -f /whole/part/mended/x")
	// What the annotation says later is nothing to the container that runs, nor to the end of the pod.
	_, err = env.client.CoreV1().Pods(b.ns).Patch(b.Context(), "p", types.MergePatchType, []byte(`{"metadata":{"annotations":{"part":"../up"}}}`), metav1.PatchOptions{})
	b.must(err)
	b.must(env.client.CoreV1().Pods(b.ns).Delete(b.Context(), "p", metav1.DeleteOptions{}))
	b.untilGone("p")
}

func badExpansion(b trial) {
	for name, value := range map[string]string{"absolute": "/tmp", "upward": "../x"} {
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {terminationGracePeriodSeconds: 0, volumes: [{name: v, emptyDir: {}}],
containers: [{name: app, image: IMAGE, command: [/testapp, forever], env: [{name: PART, value: ` + value + `}], volumeMounts: [{name: v, mountPath: /part, subPathExpr: $(PART)}]}]}}`)
		b.untilWaiting(name, "CreateContainerConfigError")
	}
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ticks}, spec: {terminationGracePeriodSeconds: 0, volumes: [{name: v, emptyDir: {}}],
containers: [{name: app, image: IMAGE, command: [/testapp, forever], env: [{name: PART, value: a}], volumeMounts: [{name: v, mountPath: /part, subPathExpr: "` + "`echo $(MISSING)`" + `"}]}]}}`)
	b.untilWaiting("ticks", "CreateContainerConfigError")
}

func etcHosts(b trial) {
	b.create(`
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  terminationGracePeriodSeconds: 0
  hostAliases: [{ip: 192.0.2.7, hostnames: [alias]}]
  volumes: [{name: h, hostPath: {path: /etc/hostname}}]
  containers:
  - {name: app, image: IMAGE, command: [/testapp, forever]}
  - {name: mounted, image: IMAGE, command: [/testapp, forever], volumeMounts: [{name: h, mountPath: /etc/hosts}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {hostNetwork: true, terminationGracePeriodSeconds: 0, hostAliases: [{ip: 192.0.2.7, hostnames: [alias]}], containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}`)
	b.untilReady("own")
	b.untilReady("host")
	const managed = "# Kubernetes-managed hosts file."
	if text, err := b.exec("own", "app", "cat /etc/hosts"); err != nil || containsAll(text, managed, "192.0.2.7\talias\n") != "" {
		b.Errorf("%q %v", text, err)
	}
	if text, err := b.exec("own", "mounted", "cat /etc/hosts"); err != nil || strings.Contains(text, managed) {
		b.Errorf("mounted: %q %v", text, err)
	}
	if text := b.sh("host", "cat /etc/hosts"); strings.Contains(text, managed) || !strings.Contains(text, "192.0.2.7\talias\n") {
		b.Errorf("on the host's network: %q", text)
	}
}

func unusualProbes(b trial) {
	probed := func(name, command, probe string) {
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {terminationGracePeriodSeconds: 500,
containers: [{name: app, image: IMAGE, command: ` + command + `, ` + probe + `}]}}`)
	}
	probed("here", "[/testapp, serve=8080]", `livenessProbe: {periodSeconds: 1, timeoutSeconds: 10, httpGet: {port: 8080, path: "/redirect?to=/healthz"}}`)
	probed("away", "[/testapp, serve=8080]", `livenessProbe: {periodSeconds: 1, timeoutSeconds: 10, httpGet: {port: 8080, path: "/redirect?to=http://0.0.0.0:1/"}}`)
	probed("short", "[/testapp, stubborn]", `livenessProbe: {periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1, exec: {command: ["false"]}}`)
	probed("delayed", "[/testapp, serve=8080]", `readinessProbe: {periodSeconds: 1, initialDelaySeconds: 4, httpGet: {port: 8080, path: /healthz}}`)
	probed("wrong", "[/testapp, grpc=8080]", `livenessProbe: {periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1, grpc: {port: 2333}}`)
	probed("never", "[/testapp, forever]", `readinessProbe: {periodSeconds: 1, exec: {command: ["false"]}}`)
	restarted := func(pod *corev1.Pod) bool {
		return len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].RestartCount > 0
	}
	b.until("short", "restarted", restarted)
	b.until("wrong", "restarted", restarted)
	b.wantEvent("away", "Warning ProbeWarning: Liveness probe warning: Probe terminated redirects")
	pod := b.untilReady("delayed")
	started := pod.Status.ContainerStatuses[0].State.Running.StartedAt
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.LastTransitionTime.Sub(started.Time) < 3*time.Second { // both are whole seconds
			b.Errorf("ready at %s, started at %s", c.LastTransitionTime, started)
		}
	}
	if _, err := b.exec("here", "", "touch /tmp/unhealthy"); err != nil {
		b.Error(err)
	}
	b.wantEvent("here", "Warning Unhealthy: Liveness probe failed", "500")
	for _, name := range []string{"away", "delayed", "never"} {
		pod, err := env.client.CoreV1().Pods(b.ns).Get(b.Context(), name, metav1.GetOptions{})
		if err != nil || restarted(pod) || name == "never" && podCondition(pod, corev1.PodReady) == corev1.ConditionTrue {
			b.Errorf("%s: %+v %v", name, pod.Status, err)
		}
	}
	zero := int64(0)
	b.must(env.client.CoreV1().Pods(b.ns).DeleteCollection(b.Context(), metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{}))
}

func commands(b trial) {
	for name, c := range map[string]struct{ spec, want string }{
		"defaults":     {`image: fairlead.io/sample:latest, imagePullPolicy: IfNotPresent`, "want a verb"},
		"arguments":    {`image: fairlead.io/sample:latest, imagePullPolicy: IfNotPresent, args: [read, /proc/self/cmdline]`, "/sample\x00read\x00/proc/self/cmdline\x00"},
		"command":      {`image: IMAGE, command: [cat, /proc/self/cmdline]`, "cat\x00/proc/self/cmdline\x00"},
		"both":         {`image: IMAGE, command: [cat], args: [/proc/self/cmdline]`, "cat\x00/proc/self/cmdline\x00"},
		"expanded":     {`image: IMAGE, env: [{name: A, value: one}, {name: B, value: "$(A)-$(A)"}], command: [echo, "$(B)"], args: ["$(A)", "$(NONE)", "$$(A)"]`, "one-one one $(NONE) $(A)\n"},
		"image's-args": {`image: IMAGE, stdin: false, command: [sh, -c, "echo from sh"]`, "from sh\n"},
	} {
		pod := strings.ReplaceAll(name, "'", "")
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + pod + `}, spec: {restartPolicy: Never, containers: [{name: app, ` + c.spec + `}]}}`)
		b.ended(pod)
		if log := b.log(pod, "app"); !strings.Contains(log, c.want) {
			b.Errorf("%s: %q, want %q", name, log, c.want)
		}
	}
}

func initFailures(b trial) {
	b.create(`
{apiVersion: v1, kind: Pod, metadata: {name: never}, spec: {restartPolicy: Never,
initContainers: [{name: good, image: IMAGE, command: ["true"]}, {name: bad, image: IMAGE, command: ["false"]}], containers: [{name: app, image: IMAGE, command: ["true"]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: always}, spec: {terminationGracePeriodSeconds: 0,
initContainers: [{name: bad, image: IMAGE, command: ["false"]}, {name: good, image: IMAGE, command: ["true"]}], containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: fine}, spec: {restartPolicy: Never,
initContainers: [{name: one, image: IMAGE, command: ["true"]}, {name: two, image: IMAGE, command: ["true"]}], containers: [{name: app, image: IMAGE, command: ["true"]}]}}`)
	pod := b.untilPhase("never", corev1.PodFailed)
	if s := containerStatus(pod, "app").State; podCondition(pod, corev1.PodInitialized) != corev1.ConditionFalse || s.Waiting == nil || s.Waiting.Reason != "PodInitializing" ||
		containerStatus(pod, "good").State.Terminated.ExitCode != 0 || containerStatus(pod, "bad").State.Terminated.ExitCode != 1 {
		b.Errorf("never: %+v", pod.Status)
	}
	pod = b.until("always", "with two failures", func(pod *corev1.Pod) bool { return containerStatus(pod, "bad").RestartCount >= 1 })
	if s := containerStatus(pod, "app").State; podCondition(pod, corev1.PodInitialized) != corev1.ConditionFalse || s.Waiting == nil || s.Waiting.Reason != "PodInitializing" || pod.Status.Phase != corev1.PodPending {
		b.Errorf("always: %+v", pod.Status)
	}
	if s := containerStatus(pod, "good").State; s.Waiting == nil || s.Waiting.Reason != "PodInitializing" {
		b.Errorf("an init container after the one that fails: %+v", s)
	}
	pod = b.untilPhase("fine", corev1.PodSucceeded)
	for _, name := range []string{"one", "two"} {
		if s := containerStatus(pod, name); !s.Ready || s.State.Terminated == nil {
			b.Errorf("%+v", s)
		}
	}
	if podCondition(pod, corev1.PodInitialized) != corev1.ConditionTrue {
		b.Errorf("fine: %+v", pod.Status.Conditions)
	}
}

func endMessages(b trial) {
	for name, c := range map[string]struct{ spec, want string }{
		"quiet":    {`command: [sh, -c, "echo DONE"], terminationMessagePolicy: FallbackToLogsOnError`, ""},
		"file":     {`command: [sh, -c, "printf OK > /dev/termination-log"], terminationMessagePolicy: FallbackToLogsOnError`, "OK"},
		"log":      {`command: [sh, -c, "printf DONE; exit 1"], terminationMessagePolicy: FallbackToLogsOnError`, "DONE"},
		"non-root": {`command: [sh, -c, "printf DONE > /dev/termination-custom-log"], terminationMessagePath: /dev/termination-custom-log, securityContext: {runAsUser: 10000}`, "DONE"},
	} {
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, ` + c.spec + `}]}}`)
		if s := b.ended(name); s.Message != c.want {
			b.Errorf("%s: %+v, want %q", name, s, c.want)
		}
	}
}

func sysctls(b trial) {
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: safe}, spec: {restartPolicy: Never, securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "1"}, {name: net/ipv4/ip_local_port_range, value: "1024 65000"}]},
containers: [{name: app, image: IMAGE, command: [cat, /proc/sys/kernel/shm_rmid_forced]}]}}`)
	b.untilPhase("safe", corev1.PodSucceeded)
	if log := b.log("safe", "app"); log != "1\n" {
		b.Errorf("%q", log)
	}
	err := b.try(`{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {securityContext: {sysctls: [{name: foo-, value: bar}, {name: kernel.shmmax, value: "100000000"}, {name: safe-and-unsafe, value: "100000000"}, {name: bar.., value: "42"}]},
containers: [{name: app, image: IMAGE}]}}`)
	if !apierrors.IsInvalid(err) || containsAll(err.Error(), `Invalid value: "foo-"`, `Invalid value: "bar.."`) != "" || strings.Contains(err.Error(), "kernel.shmmax") || strings.Contains(err.Error(), "safe-and-unsafe") {
		b.Errorf("names that are none: %v", err)
	}
}

func runtimeClasses(b trial) {
	pod := func(name, class string) string {
		return `{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {runtimeClassName: ` + class + `, restartPolicy: Never, containers: [{name: app, image: IMAGE, command: ["true"]}]}}`
	}
	if err := b.try(pod("none", "no-such-class")); !apierrors.IsForbidden(err) {
		b.Errorf("a class that is not there: %v", err)
	}
	b.create(`{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: NS}, handler: runc, overhead: {podFixed: {cpu: 10m, memory: 1Mi}}}`)
	classes := env.client.NodeV1().RuntimeClasses()
	b.Cleanup(func() { kubectl(b.T, "delete", "runtimeclass", b.ns, "--ignore-not-found") })
	b.eventually(func() error { return b.try(pod("there", b.ns)) })
	if pod := b.untilPhase("there", corev1.PodSucceeded); pod.Spec.Overhead.Cpu().String() != "10m" || pod.Spec.Overhead.Memory().String() != "1Mi" {
		b.Errorf("overhead %v", pod.Spec.Overhead)
	}
	b.must(classes.Delete(b.Context(), b.ns, metav1.DeleteOptions{}))
	b.eventually(func() error {
		if err := b.try(strings.Replace(pod("gone", b.ns), "name: gone", "generateName: gone-", 1)); !apierrors.IsForbidden(err) {
			return fmt.Errorf("a class that is no more: %v", err)
		}
		return nil
	})
}

func podStatuses(b trial) {
	pods := env.client.CoreV1().Pods(b.ns)
	events, err := pods.Watch(b.Context(), metav1.ListOptions{LabelSelector: "x=z"})
	b.must(err)
	defer events.Stop()
	ended := make(chan []string, 1)
	go func() {
		var seen []string
		for event := range events.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				break
			}
			step := string(event.Type)
			if event.Type == "MODIFIED" {
				step += " " + string(pod.Status.Phase)
				if pod.DeletionTimestamp != nil {
					step += " ending"
				}
			}
			if len(seen) == 0 || seen[len(seen)-1] != step {
				seen = append(seen, step)
			}
			if event.Type == "DELETED" {
				break
			}
		}
		ended <- seen
	}()
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {x: z}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, forever], resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 10m, memory: 16Mi}}}]}}`)
	pod := b.untilReady("p")
	if pod.Status.QOSClass != corev1.PodQOSGuaranteed || pod.Status.HostIP == "" || len(pod.Status.HostIPs) != 2 {
		b.Errorf("%+v", pod.Status)
	}
	if got, err := pods.Patch(b.Context(), "p", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}},"status":{"message":"Patched by hand","reason":"ByHand"}}`), metav1.PatchOptions{}, "status"); err != nil || got.Status.Message != "Patched by hand" || got.Status.Reason != "ByHand" {
		b.Errorf("%v %v", got.Status, err)
	}
	if pod, err = pods.Get(b.Context(), "p", metav1.GetOptions{}); err != nil {
		b.Fatal(err)
	}
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].Status, pod.Status.Conditions[i].Message = corev1.ConditionFalse, "by hand"
	}
	for pod.ResourceVersion = ""; ; {
		got, err := pods.UpdateStatus(b.Context(), pod, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil || podCondition(got, corev1.PodReady) != corev1.ConditionFalse {
			b.Errorf("%v %v", got.Status, err)
		}
		break
	}
	b.untilReady("p") // the node knows better
	b.must(pods.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "x=z"}))
	select {
	case seen := <-ended:
		if steps := strings.Join(seen, ", "); !strings.HasPrefix(steps, "ADDED, ") || !strings.HasSuffix(steps, ", DELETED") || containsAll(steps, "MODIFIED Running", "ending") != "" {
			b.Errorf("watched: %s", steps)
		}
	case <-time.After(podPatience):
		b.Error("the watch did not see the pod's end")
	}
}

func generations(b trial) {
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever], resources: {requests: {cpu: 10m}}}]}}`)
	observed := func(want int64) {
		b.Helper()
		b.until("p", fmt.Sprintf("of generation %d", want), func(pod *corev1.Pod) bool {
			return pod.Generation == want && pod.Status.ObservedGeneration == want && podCondition(pod, corev1.PodReady) == corev1.ConditionTrue
		})
	}
	patch := func(text string, subresources ...string) {
		b.Helper()
		_, err := env.client.CoreV1().Pods(b.ns).Patch(b.Context(), "p", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}, subresources...)
		b.must(err)
	}
	observed(1)
	patch(`{"metadata":{"labels":{"a":"b"}}}`)
	observed(1)
	patch(`{"spec":{"tolerations":[{"key":"a","operator":"Exists"}]}}`)
	observed(2)
	patch(`{"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":"20m"}}}]}}`, "resize")
	observed(3)
	patch(`{"spec":{"ephemeralContainers":[{"name":"e","image":"`+shellImage+`","command":["true"]}]}}`, "ephemeralcontainers")
	observed(4)
}

func laterDeadline(b trial) {
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}`)
	b.untilReady("p")
	_, err := env.client.CoreV1().Pods(b.ns).Patch(b.Context(), "p", types.MergePatchType, []byte(`{"spec":{"activeDeadlineSeconds":2}}`), metav1.PatchOptions{})
	b.must(err)
	if pod := b.untilPhase("p", corev1.PodFailed); pod.Status.Reason != "DeadlineExceeded" {
		b.Errorf("%+v", pod.Status)
	}
}

func nodeLimits(b trial) {
	b.create(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  volumes:
  - {name: d, downwardAPI: {items: [{path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu}}, {path: memory, resourceFieldRef: {containerName: app, resource: limits.memory}}]}}
  - {name: p, projected: {sources: [{downwardAPI: {items: [{path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu}}, {path: memory, resourceFieldRef: {containerName: app, resource: limits.memory}}]}}]}}
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'echo $CPU $MEMORY; for d in /d /p; do echo $(cat $d/cpu) $(cat $d/memory); done; echo $HOST $HOSTS $ID']
    env:
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: ID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    volumeMounts: [{name: d, mountPath: /d}, {name: p, mountPath: /p}]`)
	pod := b.untilPhase("p", corev1.PodSucceeded)
	node, err := env.client.CoreV1().Nodes().Get(b.Context(), pod.Spec.NodeName, metav1.GetOptions{})
	b.must(err)
	limits := fmt.Sprintf("%d %d\n", node.Status.Allocatable.Cpu().Value(), node.Status.Allocatable.Memory().Value())
	want := limits + limits + limits + fmt.Sprintf("%s %s,%s %s\n", pod.Status.HostIP, pod.Status.HostIPs[0].IP, pod.Status.HostIPs[1].IP, pod.UID)
	if log := b.log("p", "app"); log != want {
		b.Errorf("%q, want %q", log, want)
	}
}

func serviceVariables(b trial) {
	b.create(`{apiVersion: v1, kind: Service, metadata: {name: fooservice}, spec: {ipFamilies: [IPv4], ports: [{port: 8765, targetPort: 8080}]}}`)
	svc, err := env.client.CoreV1().Services(b.ns).Get(b.Context(), "fooservice", metav1.GetOptions{})
	b.must(err)
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {restartPolicy: Never, containers: [{name: app, image: IMAGE, command: [env]}]}}`)
	b.untilPhase("p", corev1.PodSucceeded)
	ip := svc.Spec.ClusterIP
	if missing := containsAll(b.log("p", "app"), "FOOSERVICE_SERVICE_HOST="+ip+"\n", "FOOSERVICE_SERVICE_PORT=8765\n", "FOOSERVICE_PORT=tcp://"+ip+":8765\n", "FOOSERVICE_PORT_8765_TCP_PORT=8765\n",
		"FOOSERVICE_PORT_8765_TCP_PROTO=tcp\n", "FOOSERVICE_PORT_8765_TCP=tcp://"+ip+":8765\n", "FOOSERVICE_PORT_8765_TCP_ADDR="+ip+"\n"); missing != "" {
		b.Errorf("no %q", missing)
	}
	for _, kind := range []string{"ConfigMap", "Secret"} {
		if err := b.try(`{apiVersion: v1, kind: ` + kind + `, metadata: {name: e}, data: {"": dmFsdWU=}}`); !apierrors.IsInvalid(err) {
			b.Errorf("a %s with an empty key: %v", kind, err)
		}
	}
	if code, body, _ := b.http("GET", "/api/v1/namespaces/"+b.ns+"/pods/p/log?limitBytes=1"); code != http.StatusOK || len(body) != 1 {
		b.Errorf("one byte of the log: %d %q", code, body)
	}
}
