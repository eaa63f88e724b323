// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestKubectlReachesContainers is what a node serves: logs, exec, attach, cp, port-forward, figures.
func TestKubectlReachesContainers(t *testing.T) {
	runPods(t, "e2e-serving", []podCase{
		{"logs: tail, since, times, previous, followed to the end", logs},
		{"a log that grows is turned over", turnedLogs},
		{"exec, attach and cp", execAttachCopy},
		{"port-forward", portForward},
		{"figures and health, for those who may see them", figures},
	})
}

// turnedLogs: a log has at most about 10 MiB, and what is followed goes on in the next file.
func turnedLogs(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: chatty}
spec:
  nodeName: agent-1
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'head -c 12000000 /dev/zero | tr "\\0" x | fold -w 8000; while sleep 1; do echo more; done']}]`)
	pod := p.untilReady("chatty")
	logs := filepath.Join(env.sandbox.Dir, "nodes", "agent-1", "log", "pods", p.ns+"_chatty_"+string(pod.UID), "app")
	eventually(p.T, podPatience, func() error {
		old, err := filepath.Glob(filepath.Join(logs, "0.log.*"))
		if err != nil || len(old) == 0 {
			return fmt.Errorf("no log in %s was turned over (%v)", logs, err)
		}
		if text := p.kubectl("logs", "chatty", "--tail=1"); text != "more\n" {
			return fmt.Errorf("the last line is %.20q", text)
		}
		if info, err := os.Stat(filepath.Join(logs, "0.log")); err != nil || info.Size() > 1<<20 {
			return fmt.Errorf("the log in use is not a new one: %v", err)
		}
		return nil
	})
}

func logs(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  restartPolicy: Never
  containers:
  - {name: app, image: IMAGE, command: [sh, -c, 'echo one; sleep 0.5; echo two >&2; sleep 3; echo three; echo four; sleep 1; echo five']}
  - {name: long, image: IMAGE, command: [sh, -c, 'head -c 100000 /dev/zero | tr "\\0" x; echo; seq 1 1000']}
---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  restartPolicy: OnFailure
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'echo run $(ls /v | wc -l); test -f /v/x || { touch /v/x; exit 1; }; sleep 600'], volumeMounts: [{name: v, mountPath: /v}]}]`)
	p.until("talker", "running", func(pod *corev1.Pod) bool {
		s := containerStatus(pod, "app").State
		return s.Running != nil || s.Terminated != nil
	})
	if got := p.kubectl("logs", "-f", "talker", "-c", "app"); got != "one\ntwo\nthree\nfour\nfive\n" {
		p.Errorf("followed: %q", got)
	}
	if got := p.kubectl("logs", "talker", "-c", "app", "--tail=2"); got != "four\nfive\n" {
		p.Errorf("tail: %q", got)
	}
	times := strings.Fields(p.kubectl("logs", "talker", "-c", "app", "--timestamps"))
	if len(times) != 10 {
		p.Fatalf("with times: %q", times)
	}
	if got := p.kubectl("logs", "talker", "-c", "app", "--since-time="+times[4]); got != "three\nfour\nfive\n" {
		p.Errorf("since: %q", got)
	}
	if got := p.kubectl("logs", "talker", "-c", "app", "--since=1h", "--limit-bytes=5"); got != "one\nt" {
		p.Errorf("limited: %q", got)
	}
	if got := p.kubectl("logs", "talker", "-c", "long"); len(got) != 100001+3893 || !strings.HasSuffix(got, "\n999\n1000\n") {
		p.Errorf("a long line: %d bytes", len(got))
	}
	p.until("again", "restarted", func(pod *corev1.Pod) bool {
		s := containerStatus(pod, "app")
		return s.RestartCount == 1 && s.State.Running != nil
	})
	if before, now := p.kubectl("logs", "again", "--previous"), p.kubectl("logs", "again"); before != "run 0\n" || now != "run 1\n" {
		p.Errorf("previous %q, current %q", before, now)
	}
}

func execAttachCopy(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: reached}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: IMAGE, command: [/testapp, forever]}
  - {name: reader, image: IMAGE, stdin: true, stdinOnce: true, command: [sh, -c, 'while read line; do echo "got $line"; sleep 1; done; echo end']}`)
	p.untilReady("reached")
	if out, _, err := p.try("exec", "in\n", "-i", "reached", "-c", "app", "--", "sh", "-c", "cat; echo err >&2; exit 7"); out != "in\n" || err == nil || err.Error() != "exit status 7" {
		p.Errorf("exec: %q %v", out, err)
	}
	if _, errOut, err := p.try("exec", "", "reached", "-c", "app", "--", "/no/such/program"); err == nil || !strings.Contains(errOut, "no such file or directory") {
		p.Errorf("exec of nothing: %v %s", err, errOut)
	}
	if out := p.kubectl("exec", "reached", "-c", "app", "--", "sh", "-c", "test -t 0 && echo terminal || echo none"); out != "none\n" {
		p.Errorf("terminal: %q", out)
	}
	if out, errOut, err := p.try("attach", "hello\n", "-i", "reached", "-c", "reader"); err != nil || !strings.Contains(out, "got hello\nend\n") {
		p.Errorf("attach: %v %q %s", err, out, errOut)
	}
	dir := p.TempDir()
	content := strings.Repeat("fairlead", 100_000)
	if err := os.WriteFile(filepath.Join(dir, "there"), []byte(content), 0o640); err != nil {
		p.Fatal(err)
	}
	p.kubectl("cp", filepath.Join(dir, "there"), "reached:/tmp/there", "-c", "app")
	p.kubectl("cp", "reached:/tmp/there", filepath.Join(dir, "back"), "-c", "app")
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(back) != content {
		p.Errorf("copied there and back: %d of %d bytes, %v", len(back), len(content), err)
	}
}

func portForward(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: forwarded}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [/testapp, serve=8080], readinessProbe: {periodSeconds: 1, tcpSocket: {port: 8080}}}]}`)
	p.untilReady("forwarded")
	ctx, cancel := context.WithTimeout(p.Context(), podPatience)
	cmd := exec.CommandContext(ctx, filepath.Join(env.bin, "fairlead"), "kubectl", "--kubeconfig", env.sandbox.Kubeconfig(), "port-forward", "-n", p.ns, "pod/forwarded", ":8080", "--address=127.0.0.1")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n') // Forwarding from 127.0.0.1:PORT -> 8080
	if err != nil {
		p.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d -> 8080", &port); err != nil {
		p.Fatalf("%q: %v", line, err)
	}
	for range 3 {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/hostname", port))
		if err != nil {
			p.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != "forwarded" {
			p.Errorf("%q %v", body, err)
		}
	}
}

func figures(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: measured}
spec:
  nodeName: agent-1
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'trap "exit 0" TERM; while :; do :; done'], resources: {limits: {cpu: 50m, memory: 32Mi}}}]`)
	p.untilReady("measured")
	get := func(path string) string { return kubectl(p.T, "get", "--raw", "/api/v1/nodes/agent-1/proxy/"+path) }
	labels := `container="app",namespace="` + p.ns + `",pod="measured"`
	for path, words := range map[string][]string{
		"healthz": {"ok"}, "pods": {`"name":"measured"`}, "metrics": {"kubelet_running_pods", "kubelet_pod_start_duration_seconds", "storage_operation_duration_seconds"},
		"metrics/resource": {"container_cpu_usage_seconds_total{" + labels, "container_memory_working_set_bytes{" + labels, "node_memory_working_set_bytes"},
		"metrics/cadvisor": {"container_cpu_cfs_throttled_periods_total{", "container_network_receive_bytes_total{", "container_fs_usage_bytes", `pod="measured"`},
		"metrics/probes":   {"prober_probe_total"},
		"stats/summary":    {`"name":"measured"`, `"workingSetBytes"`, `"psi"`, `"rootfs"`, `"inodesFree"`},
	} {
		eventually(p.T, podPatience, func() error { // the first measurement of a pod comes a moment after it
			if missing := containsAll(strings.ReplaceAll(get(path), `": "`, `":"`), words...); missing != "" {
				return fmt.Errorf("%s lacks %s", path, missing)
			}
			return nil
		})
	}
	eventually(p.T, podPatience, func() error {
		out, errOut, err := p.try("top", "", "pod", "measured", "--no-headers")
		if f := strings.Fields(out); err != nil || len(f) != 3 || !strings.HasSuffix(f[1], "m") || f[1] == "0m" {
			return fmt.Errorf("kubectl top: %v %q %s", err, out, errOut)
		}
		return nil
	})
	// Somebody whom nobody allowed it sees nothing; without a credential not even that.
	token := p.kubectl("create", "token", "default")
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			return socketIn(p.T, "client", func() (net.Conn, error) { return net.Dial("tcp", address) })
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	for authorization, want := range map[string]int{"": http.StatusUnauthorized, "Bearer " + token: http.StatusForbidden, "Bearer nonsense": http.StatusUnauthorized} {
		request, err := http.NewRequestWithContext(p.Context(), http.MethodGet, "https://10.111.0.12:10250/pods", nil)
		if err != nil {
			p.Fatal(err)
		}
		if authorization != "" {
			request.Header.Set("Authorization", strings.TrimSpace(authorization))
		}
		response, err := client.Do(request)
		if err != nil {
			p.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			p.Errorf("with %.12q the node answers %s, want %d", authorization, response.Status, want)
		}
	}
}
