// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// start runs a control plane in dir until stop is called.
func start(t *testing.T, dir string) (env Env, stop func()) {
	t.Helper()
	return startConfig(t, Config{DataDir: dir, Token: "abcdef.0123456789abcdef"})
}

// startConfig runs a control plane on a port of the kernel's choice until stop is called.
func startConfig(t *testing.T, cfg Config) (env Env, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan Env, 1), make(chan error, 1)
	cfg.BindAddress, cfg.Port, cfg.AdvertiseAddresses = "127.0.0.1", -1, []string{"192.0.2.1"}
	cfg.OnReady = func(e Env) { ready <- e }
	go func() { done <- Run(ctx, cfg) }()
	stop = func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run returned %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Run did not return within 30 s")
		}
	}
	select {
	case env = <-ready:
	case err := <-done:
		t.Fatalf("Run ended before it was ready: %v", err)
	case <-time.After(60 * time.Second):
		t.Fatal("not ready within 60 s")
	}
	return env, stop
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "server") // not t.TempDir: its path may be too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestRun(t *testing.T) {
	dir := shortDir(t)
	env, stop := start(t, dir)
	ctx := t.Context()

	info, err := os.Stat(env.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the admin kubeconfig has mode %o, want 600", info.Mode().Perm())
	}
	admin := client(t, env.AdminKubeconfig)
	if _, err := admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().ClusterRoles().Get(ctx, "cluster-admin", metav1.GetOptions{}); err != nil {
		t.Errorf("default roles: %v", err)
	}
	if _, err := admin.CoreV1().Secrets("kube-system").Get(ctx, "bootstrap-token-abcdef", metav1.GetOptions{}); err != nil {
		t.Errorf("join token: %v", err)
	}

	nobody := rest.AnonymousClientConfig(env.Client)
	nobody.ServerName, nobody.CAFile, nobody.CAData = "127.0.0.1", env.Keys.CAFile(), nil
	anonymous := kubernetes.NewForConfigOrDie(nobody)
	if _, err := anonymous.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("an anonymous list of secrets returned %v, want Forbidden", err)
	}
	if _, err := anonymous.Discovery().ServerVersion(); err != nil {
		t.Errorf("anonymous /version: %v", err)
	}
	stop()

	// Once more in the same directory: same keys, same objects.
	env, stop = start(t, dir)
	defer stop()
	if _, err := client(t, env.AdminKubeconfig).CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("after restart: %v", err)
	}
}

func client(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return kubernetes.NewForConfigOrDie(cfg)
}
