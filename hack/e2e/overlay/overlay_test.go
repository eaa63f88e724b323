// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package overlay tries the pod network as a new user meets it: a dual-stack cluster of two nodes that share no link, pods of its own, kubectl, and the commands of the documentation.
package overlay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/await"
	"github.com/fairlead/fairlead/hack/images/testimage"
	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/testcluster"
)

const (
	image    = "fairlead.io/shell:1"
	patience = 90 * time.Second
	// A node's plugin and its configuration.
	cniDir = "/var/lib/fairlead/agent/cni"
	plugin = cniDir + "/bin/fairlead-cni"
	conf   = cniDir + "/net.d/10-fairlead.conflist"
)

var nodes = []string{"server-1", "agent-1"}

type cluster struct {
	*testing.T
	sandbox *sandbox.Sandbox
}

func TestPodNetwork(t *testing.T) {
	root, err := testcluster.Root()
	if err != nil {
		t.Fatal(err)
	}
	c := cluster{t, testcluster.New(t, "overlay")}
	shell, err := testimage.Shell(t.TempDir(), image)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "shell.tar")
	if err := os.WriteFile(archive, shell, 0o644); err != nil {
		t.Fatal(err)
	}
	err = c.sandbox.Up(t.Context(), sandbox.UpOptions{
		Servers: 1, Agents: 1, Families: sandbox.Families{IPv4: true, IPv6: true}, Routed: true, APIPort: testcluster.Port(350), Out: os.Stdout,
		Binary: filepath.Join(root, "bin", "fairlead"), Images: []string{archive},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		c.kubectl("apply", "-f", "-", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "labels": {"app": "web"}}, "spec": {
"nodeName": %q, "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}], "containers": [
{"name": "app", "image": %[3]q, "imagePullPolicy": "IfNotPresent", "command": ["/testapp", "udp=9000", "serve=8080"],
 "ports": [{"containerPort": 8080, "hostPort": 8088}, {"containerPort": 9000, "hostPort": 9009, "protocol": "UDP"}]},
{"name": "files", "image": %[3]q, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "mkdir /www; head -c 5000000 /dev/zero >/www/big; exec httpd -f -p 8000 -h /www"]}]}}`, "web-"+n, n, image))
	}
	c.kubectl("wait", "pods", "-l", "app=web", "--for=condition=Ready", "--timeout=90s")
	for _, part := range []struct {
		name string
		test func(cluster)
	}{
		{"pods reach each other across nodes, large packets too", acrossNodes},
		{"host ports answer from outside, from nodes and from pods", hostPorts},
		{"nodes see each other over the pod network", peers},
		{"the CNI installation says what it is and is repaired", installation},
		{"a node without free addresses says so and recovers", exhaustion},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(cluster{t, c.sandbox}) })
	}
}

// kubectl runs kubectl; of apply -f - the last argument is the standard input.
func (c cluster) kubectl(args ...string) string {
	c.Helper()
	k := c.sandbox.Kubectl()
	if args[0] == "apply" {
		if err := k.Apply(c.Context(), args[len(args)-1]); err != nil {
			c.Fatal(err)
		}
		return ""
	}
	out, err := k.Run(context.WithoutCancel(c.Context()), args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// try runs a shell command on a host of the sandbox.
func (c cluster) try(host, script string) (string, error) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), patience) // cleanups use it too
	defer cancel()
	if err := c.sandbox.Exec(ctx, host, []string{"bash", "-c", "PATH=" + c.sandbox.Bin + ":$PATH; " + script}, nil, &out, &out); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w\n%s", host, script, err, out.String())
	}
	return out.String(), nil
}

func (c cluster) sh(host, script string) string {
	c.Helper()
	out, err := c.try(host, script)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

func (c cluster) eventually(f func() error) {
	c.Helper()
	await.Nil(c, patience, f)
}

func (c cluster) podIPs(pod string) []string {
	c.Helper()
	ips := strings.Fields(c.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}"))
	if len(ips) != 2 {
		c.Fatalf("pod %s has the addresses %v, want one per family", pod, ips)
	}
	return ips
}

func (c cluster) nodeIPs(node string) []string {
	c.Helper()
	ips := strings.Fields(c.kubectl("get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`))
	if len(ips) != 2 {
		c.Fatalf("node %s has the addresses %v, want one per family", node, ips)
	}
	return ips
}

// fetch is a shell command that prints an HTTP answer, headers and all: Debian's static wget dies of names of ports.
func fetch(ip string, port int, path string) string {
	return fmt.Sprintf(`printf 'GET %s HTTP/1.0\r\n\r\n' | nc -w 10 %s %d`, path, ip, port)
}

func acrossNodes(c cluster) {
	for i, from := range nodes {
		other := nodes[1-i]
		for _, ip := range c.podIPs("web-" + other) {
			in := func(script string) string {
				c.Helper()
				return c.kubectl("exec", "web-"+from, "-c", "files", "--", "sh", "-c", script)
			}
			c.eventually(func() error { // the file is still being written, perhaps
				out := strings.TrimSpace(in(fetch(ip, 8000, "/big") + " | tail -c 5000000 | wc -c"))
				if out != "5000000" {
					return fmt.Errorf("%s to %s: %q bytes of 5000000", from, ip, out)
				}
				return nil
			})
			if out := in("ping -c 3 -W 5 -s 8000 " + ip); !strings.Contains(out, " 0% packet loss") {
				c.Errorf("%s to %s: fragmented pings\n%s", from, ip, out)
			}
		}
		// The tunnel's overhead is in the route; a pod's own interface keeps the link's size.
		for _, r := range strings.Split(strings.TrimSpace(c.sh(from, "ip route show proto 178")), "\n") {
			if strings.HasPrefix(r, "unreachable ") { // what is left of the node's own range
				continue
			}
			if !strings.Contains(r, "dev fl_vxlan") || !strings.Contains(r, "mtu lock 1450") {
				c.Errorf("%s: route %q: want one into the tunnel, with its MTU", from, r)
			}
		}
	}
}

func hostPorts(c cluster) {
	for _, n := range nodes {
		for _, ip := range c.nodeIPs(n) {
			url := "http://" + net.JoinHostPort(ip, "8088") + "/hostname"
			for _, from := range append([]string{"client"}, nodes...) {
				c.eventually(func() error {
					out, err := c.try(from, "curl -sS -m 5 "+url)
					if err == nil && out != "web-"+n {
						err = fmt.Errorf("%s, TCP, from %s: %q", url, from, out)
					}
					return err
				})
				c.eventually(func() error {
					out, err := c.try(from, "exec 3<>/dev/udp/"+ip+"/9009; echo datagram >&3; timeout 3 head -n 1 <&3")
					if err == nil && out != "datagram\n" {
						err = fmt.Errorf("%s, UDP, from %s: %q", ip, from, out)
					}
					return err
				})
			}
			for _, pod := range nodes {
				if out := c.kubectl("exec", "web-"+pod, "-c", "files", "--", "sh", "-c", fetch(ip, 8088, "/hostname")); !strings.HasSuffix(out, "web-"+n) {
					c.Errorf("%s from the pod on %s: %q", url, pod, out)
				}
			}
		}
	}
	// What is not mapped is refused, at once.
	if out, err := c.try("client", "curl -sS -m 5 http://"+net.JoinHostPort(c.nodeIPs("agent-1")[0], "8089")+"/"); err == nil || !strings.Contains(out, "refused") && !strings.Contains(out, "Couldn't connect") {
		c.Errorf("a port that nobody has: %v\n%s", err, out)
	}
}

// reachable wants node's health command to show both addresses of the other as reachable, or neither, and its metrics to say the same.
func (c cluster) reachable(node string, want bool) error {
	out, err := c.try(node, "flctl health -o json")
	if err != nil {
		return err
	}
	if yes, no := strings.Count(out, `"reachable": true`), strings.Count(out, `"reachable": false`); want && (yes != 2 || no != 0) || !want && (yes != 0 || no != 2) {
		return fmt.Errorf("%s: want reachable %t:\n%s", node, want, out)
	}
	for _, line := range c.metric(node, "fairlead_peer_reachable{") {
		if strings.HasSuffix(line, " 1") != want {
			return fmt.Errorf("%s: %s", node, line)
		}
	}
	return nil
}

// metric returns the lines of a node's metrics that begin with prefix.
func (c cluster) metric(node, prefix string) (lines []string) {
	c.Helper()
	for line := range strings.Lines(c.kubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/metrics")) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		c.Errorf("%s has no metric %s", node, prefix)
	}
	return lines
}

func peers(c cluster) {
	for _, n := range nodes {
		c.eventually(func() error { return c.reachable(n, true) })
		for _, line := range c.metric(n, "fairlead_peer_latency_seconds{") {
			if strings.HasSuffix(line, " 0") {
				c.Errorf("%s: no latency: %s", n, line)
			}
		}
	}
	if out := c.sh("agent-1", "flctl health"); !strings.Contains(out, "LATENCY") || !strings.Contains(out, "server-1") {
		c.Errorf("flctl health:\n%s", out)
	}
	c.sh("agent-1", "ip link set fl_vxlan down")
	c.eventually(func() error { return c.reachable("agent-1", false) })
	c.sh("agent-1", "ip link set fl_vxlan up")
	c.eventually(func() error { return c.reachable("agent-1", true) })
}

func installation(c cluster) {
	const node = "agent-1"
	flags := " --cni-bin-dir " + cniDir + "/bin --cni-conf-dir " + cniDir + "/net.d"
	status := func() error { // the agent says when it has repaired
		out, err := c.try(node, "fairlead cni status"+flags+" --cni-queue-dir /var/lib/fairlead/agent/cni-deletions")
		if err == nil && strings.Count(out, "installed") != 2 {
			err = fmt.Errorf("status:\n%s", out)
		}
		return err
	}
	c.eventually(status)
	for _, damage := range []string{"rm " + conf, "echo '{}' >" + conf, "rm " + plugin, "rm " + plugin + "; echo >" + plugin} {
		c.sh(node, damage)
		c.eventually(status)
	}
	// By hand, beside the agent's own installation.
	mine := " --cni-bin-dir /run/mine/bin --cni-conf-dir /run/mine/net.d"
	if out, err := c.try(node, "fairlead cni status"+mine); err == nil || !strings.Contains(out, "missing") {
		c.Errorf("status before install: %v\n%s", err, out)
	}
	c.sh(node, "fairlead cni install"+mine+" && fairlead cni status"+mine)
	c.sh(node, "fairlead cni uninstall"+mine)
	if out := c.sh(node, "ls -A /run/mine/bin /run/mine/net.d"); strings.Contains(out, "fairlead") {
		c.Errorf("uninstall left\n%s", out)
	}
}

// exhaustion has another runtime's containers take every IPv4 address of a node.
func exhaustion(c cluster) {
	const node = "agent-1"
	cni := func(command string) string {
		return `export CNI_COMMAND=` + command + ` CNI_CONTAINERID=full-$i CNI_NETNS=/run/netns/full-$i CNI_IFNAME=eth0 CNI_PATH=` + filepath.Dir(plugin) + `; ` + plugin + ` </run/full.conf`
	}
	c.sh(node, `sed -n 's/.*"socket": *\("[^"]*"\).*/\1/p' `+conf+` >/run/socket; sed -n 's/.*"queue": *\("[^"]*"\).*/\1/p' `+conf+` >/run/queue
echo '{"cniVersion": "1.0.0", "name": "other", "type": "fairlead-cni", "last": true, "socket": '$(cat /run/socket)', "queue": '$(cat /run/queue)'}' >/run/full.conf`)
	c.Cleanup(func() {
		c.sh(node, `for n in /run/netns/full-*; do i=${n##*-}; `+cni("DEL")+`; ip netns delete full-$i; done`)
	})
	out := c.sh(node, `for i in $(seq 1 300); do ip netns add full-$i; (`+cni("ADD")+`) >/run/out 2>&1 || { cat /run/out; exit 0; }; done`)
	if !strings.Contains(out, `"code": 100`) {
		c.Fatalf("300 containers had addresses of a /24, or it ended otherwise:\n%s", out)
	}
	c.kubectl("apply", "-f", "-", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"}, "spec": {"nodeName": %q, "terminationGracePeriodSeconds": 0,
"containers": [{"name": "app", "image": %q, "imagePullPolicy": "IfNotPresent", "command": ["/testapp", "forever"]}]}}`, node, image))
	c.eventually(func() error {
		if out := c.kubectl("get", "events", "-A", "--field-selector", "reason=PodAddressesExhausted,involvedObject.name="+node, "-o", "jsonpath={.items[*].message}"); out == "" {
			return fmt.Errorf("no event PodAddressesExhausted on node %s", node)
		}
		return nil
	})
	c.eventually(func() error {
		if out := c.kubectl("describe", "pod", "late"); !strings.Contains(out, "no free pod address") {
			return fmt.Errorf("the pod does not say why it waits:\n%s", out)
		}
		return nil
	})
	for _, line := range c.metric(node, "fairlead_ipam_exhausted_total") {
		if strings.HasSuffix(line, " 0") {
			c.Error(line)
		}
	}
	c.metric(node, "fairlead_ipam_addresses{")
	c.sh(node, `for i in 1 2 3; do (`+cni("DEL")+`); done`)
	c.kubectl("wait", "pod/late", "--for=condition=Ready", "--timeout=90s") // the addresses rest first
}
