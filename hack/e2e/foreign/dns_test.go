// SPDX-License-Identifier: Apache-2.0

//go:build e2e

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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/await"
	"github.com/fairlead/fairlead/hack/images/ociarchive"
)

const clusterDNS = "10.96.0.10"

// importCoreDNS builds CoreDNS into an image and imports it on every node.
func (c *cluster) importCoreDNS() {
	c.Helper()
	program := filepath.Join(c.TempDir(), "coredns")
	build := exec.CommandContext(c.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/fairlead/fairlead/hack/images/coredns")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		c.Fatalf("build CoreDNS: %v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		c.Fatal(err)
	}
	archive, err := filepath.Abs("../../../out/images/coredns-e2e.oci") // where hosts of the sandbox see it
	if err != nil {
		c.Fatal(err)
	}
	f, err := os.Create(archive)
	if err != nil {
		c.Fatal(err)
	}
	defer os.Remove(archive)
	err = ociarchive.Write(f, ociarchive.Image{Name: "fairlead.io/coredns:e2e", Architecture: runtime.GOARCH, Entrypoint: []string{"/coredns"},
		Files: []ociarchive.File{{Path: "/coredns", Mode: 0o755, Data: data}}})
	f.Close()
	if err != nil {
		c.Fatal(err)
	}
	for _, n := range nodes {
		c.sh(n, filepath.Join(c.bin, "fairlead"), "image", "import", archive)
	}
}

// dig asks the cluster's DNS address from a node.
func (c *cluster) dig(question ...string) (string, error) {
	var out bytes.Buffer
	err := c.sandbox.Exec(context.WithoutCancel(c.Context()), "agent-1", append([]string{"dig", "+time=2", "+tries=2", "+noall", "+comments", "+answer", "@" + clusterDNS}, question...), nil, &out, &out)
	return out.String(), err
}

// wants waits until a question is answered so.
func (c *cluster) wants(want string, question ...string) {
	c.Helper()
	await.Nil(c.T, 60*time.Second, func() error {
		out, err := c.dig(question...)
		if err != nil || !strings.Contains(out, want) {
			return fmt.Errorf("%v: %w, want %q in\n%s", question, err, want, out)
		}
		return nil
	})
}

// whileAsked runs f while questions are asked, each repeated once by dig; none may stay without an answer.
func (c *cluster) whileAsked(f func()) {
	c.Helper()
	var asked atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				asked.Add(1)
				if out, err := c.dig("kubernetes.default.svc.cluster.local", "A"); err != nil || !strings.Contains(out, "10.96.0.1") {
					c.Errorf("unanswered: %v\n%s", err, out)
				}
			}
		})
	}
	f()
	close(done)
	wg.Wait()
	c.Logf("%d questions", asked.Load())
}

// dnsOverlay writes what a user writes over one of the DNS Deployment's kustomizations: the image.
func (c *cluster) dnsOverlay(which string) string {
	c.Helper()
	dir := c.TempDir()
	base, err := filepath.Abs("../../../dataplane/dns/manifests/kustomize/" + which)
	if err == nil {
		base, err = filepath.Rel(dir, base)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images: [{name: fairlead, newName: fairlead.io/dataplane, newTag: "1"}]
`, base), 0o600)
	}
	if err != nil {
		c.Fatal(err)
	}
	return dir
}

// TestInPlaceOfCoreDNS has `fairlead dns` take the place of a cluster's CoreDNS deployment and give it back, as docs/dns.md says, while names are asked for; and be a cluster's only DNS, with a
// Service of its own.
func TestInPlaceOfCoreDNS(t *testing.T) {
	c := newCluster(t)
	kustomize(c).apply("1")
	c.must("-n", "kube-system", "rollout", "status", "daemonset/fairlead-dataplane", "--timeout=60s")
	c.must("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=30s")
	c.importCoreDNS()
	t.Cleanup(func() {
		if t.Failed() {
			for _, args := range [][]string{{"get", "pods,endpointslices", "-o", "wide"}, {"describe", "pods", "-l", "k8s-app=kube-dns"}, {"logs", "deploy/fairlead-dns", "--tail=30"}} {
				out, err := c.kubectl(append([]string{"-n", "kube-system"}, args...)...)
				t.Log(out, err)
			}
		}
	})

	// The two servers are told apart by a name with longer ones below it, docs/dns.md.
	const above, coreDNS, ours = "_tcp.kubernetes.default.svc.cluster.local", "status: NXDOMAIN", "status: NOERROR"
	// This cluster's own controller has made a Service kube-dns, which the nodes would serve. Over that one, only the server merges the two ports 53 rightly.
	over := []string{"apply", "--server-side", "--force-conflicts"}
	c.must(append(over, "-f", "testdata/coredns.yaml")...)
	c.must("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	await.Nil(t, 30*time.Second, func() error { // the nodes' own endpoints leave a Service that has pods
		if out := c.must("-n", "kube-system", "get", "endpointslices", "-l", "endpointslice.kubernetes.io/managed-by=clusterdns.fairlead.io", "-o", "name"); out != "" {
			return fmt.Errorf("endpoints of nodes beside CoreDNS's pods: %s", out)
		}
		return nil
	})
	c.wants(coreDNS, above)
	c.wants("10.96.0.1", "kubernetes.default.svc.cluster.local")
	c.wants("10.96.0.1", "+tcp", "kubernetes.default.svc.cluster.local")

	base := c.dnsOverlay("base")
	c.whileAsked(func() {
		c.must("apply", "-k", base)
		c.must("-n", "kube-system", "rollout", "status", "deployment/fairlead-dns", "--timeout=120s")
		c.must("-n", "kube-system", "scale", "deployment/coredns", "--replicas=0")
		c.must("-n", "kube-system", "wait", "--for=delete", "pod", "-l", "app=coredns", "--timeout=60s")
	})
	for range 10 {
		c.wants(ours, above)
	}
	c.wants("10.96.0.1", "+tcp", "kubernetes.default.svc.cluster.local")

	c.whileAsked(func() { // and back
		c.must("-n", "kube-system", "scale", "deployment/coredns", "--replicas=2")
		c.must("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
		c.must("delete", "-k", base, "--timeout=60s")
		c.must("-n", "kube-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=fairlead-dns", "--timeout=60s")
	})
	for range 10 {
		c.wants(coreDNS, above)
	}

	c.must("delete", "-f", "testdata/coredns.yaml", "--timeout=60s")
	c.must("-n", "kube-system", "wait", "--for=delete", "pod", "-l", "app=coredns", "--timeout=60s")
	whole := c.dnsOverlay("with-service")
	c.must(append(over, "-k", whole)...)
	c.must("-n", "kube-system", "rollout", "status", "deployment/fairlead-dns", "--timeout=120s")
	c.wants(ours, above)
	c.wants("10.96.0.1", "kubernetes.default.svc.cluster.local")
	c.wants("10.96.0.1", "+tcp", "kubernetes.default.svc.cluster.local")
	c.must("delete", "-k", whole, "--timeout=60s")
}
