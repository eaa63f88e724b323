// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// inNamespace makes a namespace for one test and deletes it afterwards.
func inNamespace(t *testing.T, name string) string {
	t.Helper()
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", name, "--ignore-not-found", "--wait=false") })
	return name
}

func TestRollbackRestoresTheTemplate(t *testing.T) {
	ns := inNamespace(t, "e2e-rollback")
	kubectl(t, "-n", ns, "create", "deployment", "d", "--image=fairlead.io/sample:latest", "--replicas=2", "--", "/sample", "serve", "--drain=0s")
	kubectl(t, "-n", ns, "patch", "deployment", "d", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"sample","imagePullPolicy":"IfNotPresent"}]}}}}`)
	kubectl(t, "-n", ns, "set", "env", "deployment/d", "V=good")
	kubectl(t, "-n", ns, "rollout", "status", "deployment/d", "--timeout=60s")
	kubectl(t, "-n", ns, "set", "env", "deployment/d", "V=bad")
	kubectl(t, "-n", ns, "rollout", "status", "deployment/d", "--timeout=60s")
	kubectl(t, "-n", ns, "rollout", "undo", "deployment/d")
	kubectl(t, "-n", ns, "rollout", "status", "deployment/d", "--timeout=60s")
	pods := kubectl(t, "-n", ns, "get", "pods", "-l", "app=d", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].spec.containers[0].env[0].value}")
	if !strings.Contains(pods, "good") {
		t.Errorf("after the rollback pods run with %q, want good", pods)
	}
	// A deployment that is orphaned leaves its replica set, one that is deleted in the foreground takes its pods along.
	kubectl(t, "-n", ns, "delete", "deployment", "d", "--cascade=orphan")
	if sets := kubectl(t, "-n", ns, "get", "replicasets", "-o", "name"); sets == "" {
		t.Error("orphaning deletion took the replica sets along")
	}
	kubectl(t, "-n", ns, "delete", "replicasets", "--all", "--cascade=foreground", "--timeout=60s")
	if left := kubectl(t, "-n", ns, "get", "pods", "-o", "name"); left != "" {
		t.Errorf("foreground deletion left %s", left)
	}
}

func TestNamespaceGoesWithEverythingInIt(t *testing.T) {
	ns := inNamespace(t, "e2e-ending")
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}
	maps := env.client.CoreV1().ConfigMaps(ns)
	if _, err := maps.Create(t.Context(), held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", ns, "create", "deployment", "d", "--image=fairlead.io/sample:latest")
	kubectl(t, "delete", "namespace", ns, "--wait=false")
	namespaces := env.client.CoreV1().Namespaces()
	eventually(t, 60*time.Second, func() error {
		got, err := namespaces.Get(t.Context(), ns, metav1.GetOptions{})
		if err != nil {
			t.Fatalf("the namespace is gone though an object in it has a finalizer: %v", err)
		}
		for _, c := range got.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v do not name the finalizer", got.Status.Conditions)
	})
	kubectl(t, "-n", ns, "patch", "configmap", "held", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	eventually(t, 60*time.Second, func() error {
		if _, err := namespaces.Get(t.Context(), ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("get the namespace: %v, want NotFound", err)
		}
		return nil
	})
	kubectl(t, "create", "namespace", ns)
	if left := kubectl(t, "-n", ns, "get", "deployments,replicasets,pods", "-o", "name"); left != "" {
		t.Errorf("a new namespace of the same name holds %s", left)
	}
}

func TestServiceWithoutEndpointsIsRefused(t *testing.T) {
	ns := inNamespace(t, "e2e-refused")
	kubectl(t, "-n", ns, "create", "service", "clusterip", "none", "--tcp=80:80")
	ip := strings.TrimSpace(kubectl(t, "-n", ns, "get", "service", "none", "-o", "jsonpath={.spec.clusterIP}"))
	eventually(t, 20*time.Second, func() error {
		out := kubectl(t, "-n", "sample", "exec", "client", "--", "/sample", "load", "--url="+url(ip, 80), "--rate=5", "--duration=1s")
		if !strings.Contains(out, "refused") {
			return fmt.Errorf("requests to a service without endpoints end with\n%s", out)
		}
		return nil
	})
}
