// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/utils/ptr"
)

func (n *Node) logs(options *v1.PodLogOptions, pod string) string {
	n.T.Helper()
	ctx, cancel := context.WithTimeout(n.T.Context(), 20*time.Second)
	defer cancel()
	data, err := n.Client.CoreV1().Pods("default").GetLogs(pod, options).DoRaw(ctx)
	if err != nil {
		n.T.Fatalf("logs of %s: %v", pod, err)
	}
	return string(data)
}

func TestServing(t *testing.T) {
	identity := NewIdentity(t)
	n := StartWith(t, identity.Server, identity.Node)
	server := Pod("server", "print=one", "print=two", "print=three", "serve=8080")
	server.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceCPU: quantity("500m"), v1.ResourceMemory: quantity("64Mi")}
	server.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(8080)}}}
	server.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	n.Create(server)
	n.WaitReady("server")

	t.Run("logs", func(t *testing.T) {
		n := n.In(t)
		if got := n.logs(&v1.PodLogOptions{}, "server"); got != "one\ntwo\nthree\n" {
			t.Errorf("logs %q", got)
		}
		if got := n.logs(&v1.PodLogOptions{TailLines: ptr.To[int64](1)}, "server"); got != "three\n" {
			t.Errorf("tail %q", got)
		}
		if got := n.logs(&v1.PodLogOptions{Timestamps: true, LimitBytes: ptr.To[int64](10)}, "server"); len(got) != 10 || !strings.HasPrefix(got, "20") {
			t.Errorf("limited %q", got)
		}
	})
	t.Run("followed logs end with the container", func(t *testing.T) {
		n := n.In(t)
		n.Create(Pod("followed", "print=a", "sleep=1s", "print=b"))
		n.Wait("followed", "started", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning })
		if got := n.logs(&v1.PodLogOptions{Follow: true}, "followed"); got != "a\nb\n" {
			t.Errorf("followed %q", got)
		}
	})
	t.Run("exec", func(t *testing.T) {
		stdout, err := n.In(t).exec("server", "in\n", "/testapp", "print=hello", "echo")
		if err != nil || stdout != "hello\nin\n" {
			t.Errorf("%q, %v", stdout, err)
		}
		if _, err := n.In(t).exec("server", "", "/testapp", "exit=7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		transport, upgrader, err := spdy.RoundTripperFor(n.REST)
		if err != nil {
			t.Fatal(err)
		}
		address := n.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name("server").SubResource("portforward").URL()
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", address), []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-done:
			t.Fatal(err)
		}
		defer func() { close(stop); <-done }()
		ports, err := forwarder.GetPorts()
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/hostname", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, _ := io.ReadAll(response.Body); string(body) != "server" {
			t.Errorf("answer %q", body)
		}
	})
	t.Run("previous logs", func(t *testing.T) {
		n := n.In(t)
		pod := Pod("again", "print=$HOSTNAME", "exit=1")
		pod.Spec.RestartPolicy = v1.RestartPolicyAlways
		n.Create(pod)
		n.Wait("again", "restarted", func(p *v1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
		})
		if got := n.logs(&v1.PodLogOptions{Previous: true}, "again"); got != "again\n" {
			t.Errorf("previous %q", got)
		}
	})
	t.Run("strangers are refused", func(t *testing.T) {
		node, err := n.Client.CoreV1().Nodes().Get(t.Context(), NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: insecure()}
		response, err := client.Get(fmt.Sprintf("https://%s:%d/pods", NodeIP, node.Status.DaemonEndpoints.KubeletEndpoint.Port))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d", response.StatusCode)
		}
	})
	t.Run("statistics and metrics", func(t *testing.T) {
		n := n.In(t)
		for path, want := range map[string]string{
			"stats/summary": `"podRef":{"name":"server"`, "metrics/resource": `container_memory_working_set_bytes{container="app",namespace="default",pod="server"}`,
			"metrics/cadvisor": `container_cpu_usage_seconds_total{`, "metrics": "go_goroutines", "healthz": "ok", "pods": `"name":"server"`,
		} {
			data, err := n.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + NodeName + "/proxy/" + path).DoRaw(t.Context())
			if err != nil || !strings.Contains(strings.ReplaceAll(string(data), `": "`, `":"`), want) {
				t.Errorf("%s lacks %s: %v\n%.2000s", path, want, err, data)
			}
		}
		for path, series := range dashboardSeries {
			data, err := n.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + NodeName + "/proxy/" + path).DoRaw(t.Context())
			if err != nil {
				t.Error(err)
				continue
			}
			for _, want := range series {
				if !strings.Contains(string(data), want) {
					t.Errorf("%s lacks %s", path, want)
				}
			}
		}
	})
}

func (n *Node) exec(pod, stdin string, command ...string) (string, error) {
	request := n.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(pod).SubResource("exec").
		VersionedParams(&v1.PodExecOptions{Command: command, Stdin: stdin != "", Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(n.REST, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	options := remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}
	if stdin != "" {
		options.Stdin = strings.NewReader(stdin)
	}
	ctx, cancel := context.WithTimeout(n.T.Context(), 20*time.Second)
	defer cancel()
	err = executor.StreamWithContext(ctx, options)
	return stdout.String(), err
}

func insecure() http.RoundTripper {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}
