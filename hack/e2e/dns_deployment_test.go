// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/hack/images/ociarchive"
)

// fairleadImage puts the executable into an image and imports it on every node.
func fairleadImage(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(env.bin, "fairlead"))
	if err != nil {
		t.Fatal(err)
	}
	importImage(t, ociarchive.Image{Name: name, Entrypoint: []string{"/usr/local/bin/fairlead"}, Files: []ociarchive.File{{Path: "/usr/local/bin/fairlead", Mode: 0o755, Data: data}}})
}

// TestDNSDeployment installs `fairlead dns` by its manifests, as on a cluster of somebody else's, with a Service of its own, and asks there.
func TestDNSDeployment(t *testing.T) {
	const namespace, image, host = "names", "fairlead.io/fairlead:e2e", "agent-1"
	fairleadImage(t, image)
	base, err := filepath.Abs("../../dataplane/dns/manifests/kustomize/base")
	if err != nil {
		t.Fatal(err)
	}
	overlay := t.TempDir()
	if base, err = filepath.Rel(overlay, base); err != nil {
		t.Fatal(err)
	}
	// A namespace of its own: kube-system/fairlead-dns is the Corefile of this cluster's nodes.
	for name, text := range map[string]string{
		"kustomization.yaml": fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: %s
resources: [%s, service.yaml]
images: [{name: fairlead, newName: fairlead.io/fairlead, newTag: e2e}]
`, namespace, base),
		"service.yaml": `apiVersion: v1
kind: Service
metadata: {name: names}
spec:
  selector: {k8s-app: kube-dns}
  ports:
  - {name: dns, protocol: UDP, port: 53}
  - {name: dns-tcp, protocol: TCP, port: 53}
  - {name: metrics, protocol: TCP, port: 9153}
`} {
		if err := os.WriteFile(filepath.Join(overlay, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(kubectl(t, "-n", namespace, "describe", "pods"))
			t.Log(kubectl(t, "-n", namespace, "logs", "deploy/fairlead-dns", "--tail=40"))
		}
		kubectl(t, "delete", "-k", overlay, "--wait=false")
		kubectl(t, "delete", "namespace", namespace, "--timeout=120s")
	})
	kubectl(t, "apply", "-k", overlay)
	kubectl(t, "-n", namespace, "rollout", "status", "deploy/fairlead-dns", "--timeout=120s")

	address := kubectl(t, "-n", namespace, "get", "service", "names", "-o", "jsonpath={.spec.clusterIP}")
	server := address + ":53"
	ask := func(flags, question string) string {
		return runOn(t, host, "dig +time=2 +tries=2 +noall +comments +answer "+flags+" @"+address+" "+question)
	}
	web := kubectl(t, "-n", "sample", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	eventually(t, 30*time.Second, func() error { return dnsQuery(t.Context(), host, "web.sample.svc.cluster.local", server) })
	for _, q := range []struct{ flags, question, want string }{
		{"", "web.sample.svc.cluster.local A", web},
		{"+tcp", "web.sample.svc.cluster.local A", web},
		{"", "WEB.sample.svc.cluster.local A", "WEB.sample.svc.cluster.local."},
		{"", "dns-version.cluster.local TXT", "1.1.0"},
		{"", "-x " + web, "web.sample.svc.cluster.local."},
		{"", "_https._tcp.kubernetes.default.svc.cluster.local SRV", "443 kubernetes.default.svc.cluster.local."},
		{"", "none.sample.svc.cluster.local A", "status: NXDOMAIN"},
		{"", "web.sample.svc.cluster.local TXT", "status: NOERROR"},
	} {
		if out := ask(q.flags, q.question); !strings.Contains(out, q.want) {
			t.Errorf("%s %s: want %q in\n%s", q.flags, q.question, q.want, out)
		}
	}

	kubectl(t, "-n", namespace, "create", "service", "clusterip", "late", "--tcp=80")
	eventually(t, 10*time.Second, func() error { return dnsQuery(t.Context(), host, "late."+namespace+".svc.cluster.local", server) })

	if out := runOn(t, host, "curl -sS -m 10 http://"+address+":9153/metrics"); !strings.Contains(out, "coredns_dns_requests_total") {
		t.Errorf("metrics: %.300s", out)
	}

	// The ConfigMap's Corefile is followed.
	text := kubectl(t, "-n", namespace, "get", "configmap", "fairlead-dns", "-o", "jsonpath={.data.Corefile}")
	block := "stub.example:{{PORT}} {\n    template IN A {\n        answer \"{{ .Name }} 60 IN A 192.0.2.7\"\n    }\n}\n"
	file := filepath.Join(t.TempDir(), "Corefile")
	if err := os.WriteFile(file, []byte(text+block), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(t, kubectl(t, "-n", namespace, "create", "configmap", "fairlead-dns", "--from-file=Corefile="+file, "--dry-run=client", "-o", "yaml"))
	eventually(t, 30*time.Second, func() error {
		if out := ask("", "x.stub.example A"); !strings.Contains(out, "192.0.2.7") {
			return fmt.Errorf("answered %s", out)
		}
		return nil
	})

	// New pods take the old ones' place without a question lost.
	dnsLoad(t, host, func() {
		kubectl(t, "-n", namespace, "rollout", "restart", "deploy/fairlead-dns")
		kubectl(t, "-n", namespace, "rollout", "status", "deploy/fairlead-dns", "--timeout=180s")
	}, server)
	for _, line := range strings.Split(strings.TrimSpace(kubectl(t, "-n", namespace, "get", "pods", "-l", "k8s-app=kube-dns", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)), "\n") {
		if !strings.HasSuffix(line, " 0") {
			t.Errorf("pod and restarts: %s", line)
		}
	}
}
