// SPDX-License-Identifier: Apache-2.0

//go:build vm

package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead/fairlead/hack/await"
	"github.com/fairlead/fairlead/hack/kubectl"
)

const (
	dir      = "/opt/fairlead"
	nodeIP   = "10.111.0.11"
	manifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: fairlead.io/sample:latest
        imagePullPolicy: IfNotPresent
        args: [serve, --listen=:8080]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /readyz, port: http}}
        resources:
          requests: {cpu: 10m, memory: 16Mi}
          limits: {cpu: 200m, memory: 64Mi}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
`
)

var client = kubectl.Client{Fairlead: filepath.Join(dir, "fairlead")}

func TestOneNode(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Fatalf("this host is not cgroup version 2 only: %v", err)
	}
	uplink(t)
	images := "/var/lib/fairlead/images"
	if err := os.MkdirAll(images, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "sample.tar"), filepath.Join(images, "sample.tar")); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(filepath.Join(dir, "fairlead"), "server", "--node-ip="+nodeIP)
	log, err := os.Create("/var/log/fairlead.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("the server's log:\n%s", b[max(0, len(b)-12000):])
			t.Logf("pods:\n%s", run("describe", "pods"))
		}
		_ = server.Process.Signal(syscall.SIGTERM)
		if err := server.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	eventually(t, func() error {
		if out := run("get", "nodes", "--no-headers"); !strings.Contains(out, " Ready ") {
			return fmt.Errorf("nodes: %s", out)
		}
		return nil
	})
	eventually(t, func() error { return client.Apply(t.Context(), manifest) })
	eventually(t, func() error {
		if out := run("get", "deployment", "web", "--no-headers"); !strings.Contains(out, "2/2") {
			return fmt.Errorf("deployment: %s", out)
		}
		return nil
	})
	ip := strings.TrimSpace(run("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"))
	backends := map[string]bool{}
	for _, target := range []string{ip + ":80", nodeIP + ":30080"} {
		eventually(t, func() error {
			name, err := get("http://" + target + "/")
			if err != nil {
				return err
			}
			backends[name] = true
			return nil
		})
	}
	eventually(t, func() error { // both replicas are used
		name, err := get("http://" + ip + "/")
		if err != nil {
			return err
		}
		if backends[name] = true; len(backends) < 2 {
			return fmt.Errorf("only %v answered", backends)
		}
		return nil
	})
	limit := strings.TrimSpace(run("exec", "deployment/web", "--", "/sample", "read", "/sys/fs/cgroup/memory.max"))
	if limit != "67108864" {
		t.Errorf("memory.max of a container is %q, want 67108864 (64Mi)", limit)
	}
	if out, err := exec.Command(filepath.Join(dir, "flctl"), "status").CombinedOutput(); err != nil {
		t.Errorf("flctl status: %v\n%s", err, out)
	} else {
		t.Logf("flctl status:\n%s", out)
	}
}

// uplink makes the interface that a host has and this machine lacks: one end of a pair, the other ends nowhere.
func uplink(t *testing.T) {
	t.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "wire"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth0", "wire"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(nodeIP + "/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(eth0, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP("10.111.0.1")}); err != nil {
		t.Fatal(err)
	}
}

// run returns what the embedded kubectl printed, its errors too.
func run(args ...string) string {
	out, err := client.Run(context.Background(), args...)
	if err != nil {
		return err.Error()
	}
	return out
}

func get(url string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return "", err
	}
	return resp.Header.Get("X-Backend"), nil
}

// eventually waits until f returns nil; an emulated processor is slow.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	await.Nil(t, 4*time.Minute, f)
}
