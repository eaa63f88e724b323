// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clocktesting "k8s.io/utils/clock/testing"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, at time.Time, addresses ...string) *PKI {
	t.Helper()
	p, err := Open(t.Context(), config(dir, at, addresses...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func config(dir string, at time.Time, addresses ...string) Config {
	return Config{Dir: dir, Clock: clocktesting.NewFakeClock(at), Addresses: func() []string { return addresses }, Etcd: true}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

func leaf(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path) // once: certificate and key may be replaced between two readings
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func verify(cert, ca *x509.Certificate, at time.Time, use x509.ExtKeyUsage) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

func TestFirstStartMakesEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	p := open(t, dir, start, "192.0.2.7", "node-1.example")
	want := []string{
		"admin.kubeconfig", "apiserver.pem", "ca.crt", "ca.key", "controller-manager.kubeconfig", "etcd-ca.crt", "etcd-ca.key", "etcd-client.pem",
		"etcd-peer.pem", "etcd-server.pem", "front-proxy-ca.crt", "front-proxy-ca.key", "front-proxy-client.pem", "kubelet-client.pem", "sa.key",
		"scheduler.kubeconfig",
	}
	if got := slices.Sorted(maps.Keys(snapshot(t, dir))); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	for _, name := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, "-ca.crt") || name == "ca.crt" {
			mode = 0o644
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %04o, want %04o", name, info.Mode().Perm(), mode)
		}
	}
	serving := leaf(t, p.ServingFile())
	if err := verify(serving, p.CA().Cert, start, x509.ExtKeyUsageServerAuth); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "kubernetes.default.svc.cluster.local", "10.96.0.1", "fd00:10:96::1", "192.0.2.7",
		"node-1.example"} {
		if err := serving.VerifyHostname(host); err != nil {
			t.Errorf("serving certificate: %v", err)
		}
	}
	if verify(serving, p.CA().Cert, start, x509.ExtKeyUsageClientAuth) == nil {
		t.Error("the serving certificate also authenticates a client")
	}
	if verify(leaf(t, p.FrontProxyClientFile()), p.CA().Cert, start, x509.ExtKeyUsageClientAuth) == nil {
		t.Error("the front-proxy client is signed by the cluster authority: any client could pose as the front proxy")
	}
	admin, err := clientcmd.LoadFromFile(p.AdminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(admin.AuthInfos["admin"].ClientCertificateData, admin.AuthInfos["admin"].ClientKeyData)
	if err != nil {
		t.Fatal(err)
	}
	if got := pair.Leaf.Subject.Organization; !slices.Equal(got, []string{"system:masters"}) {
		t.Errorf("admin is in groups %q", got)
	}
}

func TestSecondStartChangesNothing(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, start, "192.0.2.7")
	before := snapshot(t, dir)
	open(t, dir, start.Add(200*24*time.Hour), "192.0.2.7")
	if after := snapshot(t, dir); !maps.Equal(before, after) {
		t.Error("files changed although every certificate was valid for months")
	}
}

func TestAChangedAddressReplacesOnlyTheServingCertificates(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, start, "192.0.2.7")
	before := snapshot(t, dir)
	p := open(t, dir, start, "192.0.2.8")
	if err := leaf(t, p.ServingFile()).VerifyHostname("192.0.2.8"); err != nil {
		t.Error(err)
	}
	for name, data := range snapshot(t, dir) {
		changes := name == "apiserver.pem" || name == "etcd-server.pem" || name == "etcd-peer.pem"
		if (data != before[name]) != changes {
			t.Errorf("%s changed: %v, want %v", name, data != before[name], changes)
		}
	}
}

func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, start)
	oldCA, oldLeaf, oldSA := p.CA().Cert, leaf(t, p.ServingFile()), snapshot(t, dir)["sa.key"]

	at := start.Add(340 * 24 * time.Hour) // 25 days before the end of the leaves
	p = open(t, dir, at)
	if newLeaf := leaf(t, p.ServingFile()); !newLeaf.NotAfter.After(oldLeaf.NotAfter) {
		t.Errorf("serving certificate was not renewed, ends %v", newLeaf.NotAfter)
	}
	if !p.CA().Cert.Equal(oldCA) {
		t.Error("the authority was renewed long before its end")
	}

	at = start.Add(9 * 365 * 24 * time.Hour) // a year before the authority's end
	p = open(t, dir, at)
	if p.CA().Cert.Equal(oldCA) {
		t.Fatal("the authority was not renewed in its last year")
	}
	newLeaf := leaf(t, p.ServingFile())
	if err := verify(newLeaf, oldCA, at, x509.ExtKeyUsageServerAuth); err != nil {
		t.Errorf("a client that still trusts the old authority certificate is cut off: %v", err)
	}
	if err := verify(newLeaf, p.CA().Cert, at, x509.ExtKeyUsageServerAuth); err != nil {
		t.Error(err)
	}
	admin, err := clientcmd.LoadFromFile(p.AdminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(admin.Clusters["fairlead"].CertificateAuthorityData, p.CA().CertPEM) {
		t.Error("the admin kubeconfig still names the old authority certificate")
	}
	if snapshot(t, dir)["sa.key"] != oldSA {
		t.Error("the service-account key changed: every issued token is void")
	}
}

// Whatever a kill -9 leaves, the next start completes it and keeps the authorities.
func TestStartAfterACrash(t *testing.T) {
	for _, missing := range []string{"ca.crt", "apiserver.pem", "kubelet-client.pem", "admin.kubeconfig", "front-proxy-ca.crt", "front-proxy-client.pem",
		"sa.key"} {
		t.Run("without "+missing, func(t *testing.T) {
			dir := t.TempDir()
			p := open(t, dir, start)
			oldServing := leaf(t, p.ServingFile())
			if err := os.Remove(filepath.Join(dir, missing)); err != nil {
				t.Fatal(err)
			}
			p = open(t, dir, start)
			if _, ok := snapshot(t, dir)[missing]; !ok {
				t.Fatal("not made again")
			}
			if err := verify(oldServing, p.CA().Cert, start, x509.ExtKeyUsageServerAuth); err != nil {
				t.Errorf("a certificate issued before is not valid any more: %v", err)
			}
		})
	}
	t.Run("half a file in the middle of a write", func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir, start)
		before := snapshot(t, dir)
		if err := os.WriteFile(filepath.Join(dir, "apiserver.pem"+tmpMark+"123"), []byte("-----BEGIN CERT"), 0o600); err != nil {
			t.Fatal(err)
		}
		open(t, dir, start)
		if !maps.Equal(before, snapshot(t, dir)) {
			t.Error("the incomplete file was not removed, or another one changed")
		}
	})
	t.Run("a damaged certificate", func(t *testing.T) {
		dir := t.TempDir()
		p := open(t, dir, start)
		if err := os.WriteFile(p.ServingFile(), []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		leaf(t, open(t, dir, start).ServingFile())
	})
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		want   string
	}{
		{"authority without its key", func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) }, "restore the key"},
		{"key of another authority", func(dir string) error {
			return os.Rename(filepath.Join(dir, "front-proxy-ca.key"), filepath.Join(dir, "ca.key"))
		}, "does not belong to"},
		{"authority key readable by others", func(dir string) error { return os.Chmod(filepath.Join(dir, "ca.key"), 0o644) }, "others could have read it"},
		{"token key readable by a group", func(dir string) error { return os.Chmod(filepath.Join(dir, "sa.key"), 0o640) }, "others could have read it"},
		{"a leaf in place of the authority", func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, "apiserver.pem"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "ca.crt"), data, 0o644); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "ca.key"), data, 0o600)
		}, "not a certificate authority"},
		{"empty token key", func(dir string) error { return os.WriteFile(filepath.Join(dir, "sa.key"), nil, 0o600) }, "service-account key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir, start)
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir)
			_, err := Open(t.Context(), config(dir, start))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if !maps.Equal(before, snapshot(t, dir)) {
				t.Error("files were changed although the start was refused")
			}
		})
	}
}

func TestRunFollowsTheNodeAddress(t *testing.T) {
	var address atomic.Value
	address.Store("192.0.2.7")
	fake := clocktesting.NewFakeClock(start)
	cfg := Config{Dir: t.TempDir(), Clock: fake, Addresses: func() []string { return []string{address.Load().(string)} }}
	p, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	address.Store("192.0.2.99")
	for deadline := time.Now().Add(10 * time.Second); leaf(t, p.ServingFile()).VerifyHostname("192.0.2.99") != nil; {
		if time.Now().After(deadline) {
			t.Fatal("the serving certificate never got the new address")
		}
		if fake.HasWaiters() {
			fake.Step(time.Minute)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNodeFiles(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, start)
	kubeconfig, serving := filepath.Join(dir, "node.kubeconfig"), filepath.Join(dir, "kubelet.pem")
	if err := p.WriteNode(t.Context(), kubeconfig, serving, "node-1", []string{"192.0.2.7"}); err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(c.AuthInfos["system:node:node-1"].ClientCertificateData, c.AuthInfos["system:node:node-1"].ClientKeyData)
	if err != nil {
		t.Fatal(err)
	}
	if got := pair.Leaf.Subject.String(); got != "CN=system:node:node-1,O=system:nodes" {
		t.Errorf("subject %s", got)
	}
	if err := leaf(t, serving).VerifyHostname("192.0.2.7"); err != nil {
		t.Error(err)
	}
}
