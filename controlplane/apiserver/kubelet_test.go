// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// TestPassThrough puts a plain HTTPS server in a kubelet's place and looks at what reaches it.
func TestPassThrough(t *testing.T) {
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s?%s %s", r.Method, r.URL.Path, r.URL.RawQuery, body)
	}))
	defer kubelet.Close()
	host, portText, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	cfg := apitest.Start(t, apitest.Options{Configure: func(c *apiserver.Config) { c.Kubelet.Insecure = true }})
	client, ctx := kubernetes.NewForConfigOrDie(cfg), t.Context()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "elsewhere.invalid"}, {Type: corev1.NodeInternalIP, Address: host}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(port)}}}}
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	spec := podSpec()
	spec.NodeName = "n"
	if _, err := client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "nowhere"}, Spec: podSpec()}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const pod = "/api/v1/namespaces/default/pods/p"
	for _, test := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"log", "GET", pod + "/log?tailLines=5&timestamps=true", "", 200, "GET /containerLogs/default/p/main?tailLines=5&timestamps=true "},
		{"log of a container that is not there", "GET", pod + "/log?container=other", "", 400, "container other is not valid for pod p"},
		{"log with options that exclude each other", "GET", pod + "/log?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "", 422, "sinceTime"},
		{"log of a pod without node", "GET", "/api/v1/namespaces/default/pods/nowhere/log", "", 204, ""},
		{"exec without an upgrade", "POST", pod + "/exec?command=ls&stdout=1", "", 400, "Upgrade request required"},
		{"exec on a pod without node", "POST", "/api/v1/namespaces/default/pods/nowhere/exec?command=ls", "", 400, "does not have a host assigned"},
		{"node proxy", "GET", "/api/v1/nodes/n/proxy/healthz?a=b", "", 200, "GET /healthz?a=b "},
		{"node proxy with a body", "POST", "/api/v1/nodes/n/proxy/echo", "hello", 200, "POST /echo? hello"},
		{"proxy to a node that is not there", "GET", "/api/v1/nodes/none/proxy/", "", 404, "none"},
		{"proxy to a pod without address", "GET", pod + ":80/proxy/", "", 503, "no address"},
		{"proxy to a service that is not there", "GET", "/api/v1/namespaces/default/services/none/proxy/", "", 404, "none"},
		{"proxy to a service without endpoints", "GET", "/api/v1/namespaces/default/services/https:kubernetes:https/proxy/", "", 503, "no endpoints available"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "proxy to a service without endpoints" {
				// The server's own endpoint is an address that answers nobody here.
				if err := client.DiscoveryV1().EndpointSlices("default").Delete(ctx, "kubernetes", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			code, _, data := raw(t, cfg, test.method, test.path, "", "", []byte(test.body))
			if code != test.code || !strings.Contains(string(data), test.want) {
				t.Errorf("answered %d %q, want %d and %q in it", code, data, test.code, test.want)
			}
		})
	}

	// Links of the page behind the proxy are relative to a path that ends in a slash; who only reads is sent there.
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	httpClient = &http.Client{Transport: httpClient.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for method, want := range map[string]string{"GET": "301 /api/v1/nodes/n/proxy/?a=b", "HEAD": "301 /api/v1/nodes/n/proxy/?a=b", "POST": "200 "} {
		request, err := http.NewRequestWithContext(ctx, method, cfg.Host+"/api/v1/nodes/n/proxy?a=b", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := httpClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := fmt.Sprintf("%d %s", response.StatusCode, response.Header.Get("Location")); got != want {
			t.Errorf("%s of a proxy without a path: %q, want %q", method, got, want)
		}
	}
}
