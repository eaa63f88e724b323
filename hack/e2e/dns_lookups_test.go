// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/dataplane/dns/dnstest"
	"github.com/fairlead/fairlead/hack/images/ociarchive"
)

// lookupsEnv is how many look-ups each pod of TestLookupsFromPods makes instead of the default.
const lookupsEnv = "FAIRLEAD_TEST_LOOKUPS"

const resolversImage = "fairlead.io/resolvers:e2e"

// importImage imports an image on every node.
func importImage(t *testing.T, image ociarchive.Image) {
	t.Helper()
	archive, err := filepath.Abs("../../out/images/imported-e2e.oci") // where hosts of the sandbox see it
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(archive)
	image.Architecture = runtime.GOARCH
	err = ociarchive.Write(f, image)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"server-1", "agent-1", "agent-2"} {
		runOn(t, host, filepath.Join(env.bin, "fairlead")+" image import "+archive)
	}
}

// resolvers is an image of the programs of dnstest: glibc's with its libraries, musl's and the pairs' alone.
func resolvers(t *testing.T) ociarchive.Image {
	t.Helper()
	programs, err := dnstest.BuildResolvers(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	image := ociarchive.Image{Name: resolversImage, Files: []ociarchive.File{
		{Path: "/etc/nsswitch.conf", Mode: 0o644, Data: []byte("hosts: files dns\n")},
	}}
	add := func(from, to string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		image.Files = append(image.Files, ociarchive.File{Path: to, Mode: 0o755, Data: data})
	}
	add(programs.Glibc, "/glibc")
	add(programs.Musl, "/musl")
	add(programs.Pairs, "/pairs")
	out, err := exec.Command("ldd", programs.Glibc).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			add(word, word)
		}
	}
	return image
}

// clusterDNSEntries lists a node's conntrack entries of cluster DNS.
func clusterDNSEntries(t *testing.T, host string) (entries []string) {
	t.Helper()
	for line := range strings.Lines(runOn(t, host, filepath.Join(env.bin, "flctl")+" ct list")) {
		if strings.Contains(line, ":53 ") || strings.Contains(line, ":10053") {
			entries = append(entries, line)
		}
	}
	return entries
}

// TestLookupsFromPods looks names up from pods on two nodes, by glibc, by musl, and as pairs of questions from one port; by sockets that the node's hooks see, and in pods that keep theirs as they
// are, packet by packet. No look-up may fail or wait for a repetition, and none leaves a conntrack entry.
func TestLookupsFromPods(t *testing.T) {
	const namespace = "lookups"
	lookups := 2000
	if s := os.Getenv(lookupsEnv); s != "" {
		var err error
		if lookups, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	importImage(t, resolvers(t))
	kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", namespace, "--timeout=120s") })
	eventually(t, 30*time.Second, func() error { // the default service account
		_, err := env.sandbox.Kubectl().Run(t.Context(), "-n", namespace, "get", "serviceaccount", "default")
		return err
	})
	hosts := []string{"agent-1", "agent-2"}
	before := map[string]int{}
	for _, host := range hosts {
		before[host] = len(clusterDNSEntries(t, host))
	}
	names := `"web.sample", "kubernetes.default", "web.sample.svc.cluster.local", "store.sample", "kube-dns.kube-system.svc"`
	commands := map[string]string{
		"glibc": fmt.Sprintf(`["/glibc", "%d", %s]`, lookups, names),
		"musl":  fmt.Sprintf(`["/musl", "%d", %s]`, lookups, names),
		"pairs": fmt.Sprintf(`["/pairs", "10.96.0.10", "%d", "web.sample.svc.cluster.local"]`, lookups),
	}
	var manifest strings.Builder
	var pods []string
	for i, socketLB := range []string{"enabled", "disabled"} {
		for program, command := range commands {
			name := program + "-" + map[string]string{"enabled": "sockets", "disabled": "packets"}[socketLB]
			pods = append(pods, name)
			fmt.Fprintf(&manifest, `---
apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: %s
  annotations: {fairlead.io/socket-lb: %s}
spec:
  restartPolicy: Never
  nodeName: %s
  containers:
  - {name: resolver, image: %q, command: %s}
`, name, namespace, socketLB, hosts[i], resolversImage, command)
		}
	}
	apply(t, manifest.String())
	patience := 2*time.Minute + time.Duration(lookups)*3*time.Millisecond
	for _, pod := range pods {
		kubectl(t, "-n", namespace, "wait", "pod", pod, "--for=jsonpath={.status.phase}=Succeeded", "--timeout="+patience.String())
		r, err := dnstest.ParseResult(kubectl(t, "-n", namespace, "logs", pod))
		if err != nil {
			t.Error(err)
			continue
		}
		t.Logf("%s: %d look-ups, %d failed, %d waited for a repetition, the longest %s (look-up %d)", pod, r.Lookups, r.Failed, r.Slow, r.Longest, r.Which)
		if r.Lookups != int64(lookups) || r.Failed > 0 || r.Slow > 0 {
			t.Errorf("%s: look-ups failed or waited for a repetition", pod)
		}
	}
	for _, host := range hosts {
		if after := clusterDNSEntries(t, host); len(after) > before[host] {
			t.Errorf("%s: %d conntrack entries of cluster DNS, %d before:\n%s", host, len(after), before[host], strings.Join(after, ""))
		}
	}
}
