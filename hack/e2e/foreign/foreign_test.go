// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package foreign installs the dataplane by its manifests on a cluster that has no network of its own, as on anybody's Kubernetes: API server, scheduler, controllers,
// kubelets and containerd, but no CNI plugin, no kube-proxy. It upgrades the DaemonSet under load and removes everything again.
package foreign

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/await"
	"github.com/fairlead/fairlead/hack/helm"
	"github.com/fairlead/fairlead/hack/images/ociarchive"
	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/testcluster"
)

const server = "10.111.0.11" // server-1, and with it the API server

var nodes = []string{"server-1", "agent-1"}

// cluster is the cluster under test.
type cluster struct {
	*testing.T
	sandbox *sandbox.Sandbox
	bin     string
}

func newCluster(t *testing.T) *cluster {
	root, err := testcluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{T: t, sandbox: testcluster.New(t, "foreign")}
	c.bin = c.sandbox.Bin
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.kubectl("-n", "kube-system", "logs", "ds/fairlead-dataplane", "--tail=40"))
			t.Log(c.kubectl("get", "pods,nodes", "-A", "-o", "wide"))
		}
	})
	err = c.sandbox.Up(t.Context(), sandbox.UpOptions{
		Servers: 1, Agents: 1, Families: sandbox.Families{IPv4: true}, APIPort: testcluster.Port(300), NoNetwork: true, Out: os.Stdout,
		Binary: filepath.Join(c.bin, "fairlead"), Images: []string{filepath.Join(root, "out", "images", "sample.tar"), c.image()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// image puts the executables into an image, under two tags: an upgrade goes from one to the other.
func (c *cluster) image() string {
	c.Helper()
	image := ociarchive.Image{Architecture: runtime.GOARCH, Entrypoint: []string{"/usr/local/bin/fairlead"}}
	for _, name := range []string{"fairlead", "fairlead-cni"} {
		data, err := os.ReadFile(filepath.Join(c.bin, name))
		if err != nil {
			c.Fatalf("%v: run make build images", err)
		}
		image.Files = append(image.Files, ociarchive.File{Path: "/usr/local/bin/" + name, Mode: 0o755, Data: data})
	}
	before, after := image, image
	before.Name, after.Name = "fairlead.io/dataplane:1", "fairlead.io/dataplane:2"
	path := filepath.Join(c.TempDir(), "dataplane.tar")
	f, err := os.Create(path)
	if err == nil {
		err = ociarchive.Write(f, before, after)
		f.Close()
	}
	if err != nil {
		c.Fatal(err)
	}
	return path
}

// kubectl returns what kubectl printed, or how it failed.
func (c *cluster) kubectl(args ...string) (string, error) {
	return c.sandbox.Kubectl().Run(context.WithoutCancel(c.Context()), args...)
}

func (c *cluster) must(args ...string) string {
	c.Helper()
	out, err := c.kubectl(args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// overlay writes what a user writes over the kustomize base: image, and the API server's own address, since no kube-proxy makes its Service work.
func (c *cluster) overlay(tag string) string {
	c.Helper()
	dir := c.TempDir()
	base, err := filepath.Abs("../../../cni/install/manifests/kustomize/base")
	if err == nil {
		base, err = filepath.Rel(dir, base)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images: [{name: fairlead, newName: fairlead.io/dataplane, newTag: %q}]
patches:
- target: {kind: DaemonSet}
  patch: |
    - {op: add, path: /spec/template/spec/containers/0/env/-, value: {name: KUBERNETES_SERVICE_HOST, value: %q}}
    - {op: add, path: /spec/template/spec/containers/0/env/-, value: {name: KUBERNETES_SERVICE_PORT, value: "6443"}}
`, base, tag, server), 0o600)
	}
	if err != nil {
		c.Fatal(err)
	}
	return dir
}

// load sends requests from a host of the sandbox while f runs, for as long as limit, and wants every one answered.
func (c *cluster) load(from, url string, limit time.Duration) (wait func()) {
	l := testcluster.StartLoad(c.Context(), c.sandbox, from, url, "--rate=50", "--duration="+limit.String())
	return func() {
		c.Helper()
		r, err := l.Wait()
		if err != nil || r.Sent == 0 || r.Failed > 0 {
			c.Errorf("from %s to %s: %d of %d requests failed: %v %v", from, url, r.Failed, r.Sent, r.Errors, err)
			return
		}
		c.Logf("from %s to %s: %d requests answered by %d pods, p99 %s, max %s", from, url, r.OK, len(r.Backends), r.P99, r.Max)
	}
}

// sh runs a command on a node.
func (c *cluster) sh(node string, command ...string) string {
	c.Helper()
	var out bytes.Buffer
	if err := c.sandbox.Exec(c.Context(), node, command, nil, &out, &out); err != nil {
		c.Errorf("%s: %v: %v\n%s", node, command, err, out.String())
	}
	return out.String()
}

// manifests is a way to install the DaemonSet.
type manifests struct {
	apply  func(tag string) // installs that image, or upgrades to it
	remove func()
}

// kustomize applies the kustomize base.
func kustomize(c *cluster) manifests {
	return manifests{
		apply:  func(tag string) { c.must("apply", "-k", c.overlay(tag)) },
		remove: func() { c.must("delete", "-k", c.overlay("2"), "--timeout=60s") },
	}
}

// chart installs the Helm chart by Helm itself.
func chart(c *cluster) manifests {
	path, err := helm.Build(c.Context(), filepath.Join(c.bin, "tools"))
	if err != nil {
		c.Fatal(err)
	}
	home := c.TempDir()
	run := func(args ...string) {
		c.Helper()
		cmd := exec.CommandContext(c.Context(), path, append(args, "--kubeconfig", c.sandbox.Kubeconfig(), "--namespace", "kube-system", "--wait", "--timeout", "90s")...)
		cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			c.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return manifests{
		apply: func(tag string) {
			run("upgrade", "--install", "fairlead", "../../../cni/install/manifests/helm/fairlead", "--set", "image.repository=fairlead.io/dataplane", "--set-string", "image.tag="+tag, "--set", "apiServer.host="+server)
		},
		remove: func() { run("uninstall", "fairlead") },
	}
}

// TestDaemonSetOnAnotherCluster installs, upgrades and removes the dataplane, by kustomize and then, on the nodes that this left clean, by Helm.
func TestDaemonSetOnAnotherCluster(t *testing.T) {
	c := newCluster(t)
	if out := c.must("get", "nodes", "--no-headers"); strings.Count(out, "NotReady") != len(nodes) {
		t.Fatalf("nodes have a network already:\n%s", out)
	}
	for _, way := range []struct {
		name string
		by   func(*cluster) manifests
	}{{"kustomize", kustomize}, {"Helm", chart}} {
		t.Run(way.name, func(t *testing.T) {
			in := &cluster{T: t, sandbox: c.sandbox, bin: c.bin}
			lifetime(in, way.by(in))
		})
	}
}

// lifetime is all that a user does with the dataplane on a cluster: install, use, upgrade under load, remove.
func lifetime(c *cluster, m manifests) {
	t := c.T
	m.apply("1")
	c.must("-n", "kube-system", "rollout", "status", "daemonset/fairlead-dataplane", "--timeout=60s")
	c.must("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=30s")
	for _, n := range nodes {
		c.sh(n, filepath.Join(c.bin, "fairlead"), "cni", "status") // fails unless the node's runtime uses the plugin
	}
	c.must("apply", "-f", "testdata/web.yaml")
	c.must("rollout", "status", "deployment/web", "--timeout=60s")

	clusterIP := c.must("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	nodePort := c.must("get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
	pods := strings.Fields(c.must("get", "pods", "-l", "app=web", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.spec.nodeName}{\"\\n\"}{end}"))
	if len(pods) != 12 {
		t.Fatalf("pods %v", pods)
	}

	// An upgrade of every node's dataplane, one after the other, while requests come from outside and from a node.
	outside, inside := c.load("client", "http://"+server+":"+nodePort+"/", 12*time.Second), c.load("agent-1", "http://"+clusterIP+"/", 12*time.Second)
	time.Sleep(time.Second) // load before the disturbance
	m.apply("2")
	c.must("-n", "kube-system", "rollout", "status", "daemonset/fairlead-dataplane", "--timeout=60s")
	outside()
	inside()
	if out := c.must("-n", "kube-system", "get", "pods", "-l", "app.kubernetes.io/name=fairlead-dataplane", "-o", "jsonpath={.items[*].spec.containers[0].image}"); strings.Count(out, "dataplane:2") != len(nodes) {
		t.Errorf("after the upgrade: %s", out)
	}
	// Pods from before the upgrade, and one from after it.
	c.must("scale", "deployment/web", "--replicas=6")
	c.must("rollout", "status", "deployment/web", "--timeout=60s")
	c.load("client", "http://"+server+":"+nodePort+"/", 2*time.Second)()
	for _, n := range nodes {
		await.Nil(t, 30*time.Second, func() error { // the next round of probes after the peer's own upgrade
			if out := c.sh(n, filepath.Join(c.bin, "flctl"), "health"); !strings.Contains(out, " reachable ") || strings.Contains(out, "unreachable") {
				return fmt.Errorf("%s: health of its peers:\n%s", n, out)
			}
			return nil
		})
	}

	metrics := c.sh("agent-1", "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/4245; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3`)
	for _, m := range []string{`fairlead_peer_reachable{family="4",node="server-1"} 1`, `fairlead_cni_request_seconds_count{command="ADD",outcome="ok"}`} {
		if !strings.Contains(metrics, m) {
			t.Errorf("no %s among %d bytes of metrics", m, len(metrics))
		}
	}

	// Away with it: first the pods that use the network, then the DaemonSet, then what it left on the nodes.
	c.must("delete", "-f", "testdata/web.yaml", "--timeout=60s")
	c.must("wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s")
	m.remove()
	c.must("-n", "kube-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=fairlead-dataplane", "--timeout=60s")
	for _, n := range nodes {
		c.sh(n, filepath.Join(c.bin, "fairlead"), "dataplane", "--uninstall")
		out := c.sh(n, "sh", "-c", `
			ip -o link | grep -E ': fl[0-9a-f_]'
			ip route show proto 178; ip route show proto 179
			ip -o addr show dev lo | grep 10.244
			find /sys/fs/bpf/fairlead /etc/cni/net.d /opt/cni/bin -mindepth 1 ! -name links
			true`)
		if out != "" {
			t.Errorf("left on %s:\n%s", n, out)
		}
	}
}
