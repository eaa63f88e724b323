// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certutil "k8s.io/client-go/util/cert"
)

// TestExtensionsRunAsPods serves admission webhooks, a conversion webhook and an aggregated API from a pod on another node than the API server's, behind
// a Service: the API server finds its way into the pod network by the node's dataplane.
func TestExtensionsRunAsPods(t *testing.T) {
	cert, key, err := certutil.GenerateSelfSignedCertKey("extension.extended.svc", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	ca := encode(cert)
	t.Cleanup(func() { // an aggregated API whose server is gone holds up the deletion of every namespace
		kubectl(t, "delete", "--ignore-not-found", "apiservice/v1.harbour.fairlead.io", "crd/ships.sea.fairlead.io", "mutatingwebhookconfiguration/extended",
			"validatingwebhookconfiguration/extended", "namespace/extended", "--timeout=60s")
	})
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: extended, labels: {extended: "yes"}}
---
apiVersion: v1
kind: Secret
metadata: {name: tls, namespace: extended}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
---
apiVersion: v1
kind: Service
metadata: {name: extension, namespace: extended}
spec: {selector: {app: extension}, ports: [{port: 443, targetPort: https}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: extension, namespace: extended}
spec:
  selector: {matchLabels: {app: extension}}
  template:
    metadata: {labels: {app: extension}}
    spec:
      nodeSelector: {kubernetes.io/hostname: agent-1}
      terminationGracePeriodSeconds: 1
      containers:
      - name: extension
        image: fairlead.io/sample:latest
        imagePullPolicy: Never
        args: [extend, --listen=:8443]
        ports: [{name: https, containerPort: 8443}]
        readinessProbe: {httpGet: {path: /readyz, port: https, scheme: HTTPS}, periodSeconds: 1}
        volumeMounts: [{name: tls, mountPath: /tls}]
      volumes: [{name: tls, secret: {secretName: tls}}]
`, ca, encode(key)))
	kubectl(t, "rollout", "status", "deployment/extension", "-n", "extended", "--timeout=60s")
	t.Run("admission webhooks", func(t *testing.T) { admissionByPod(t, ca) })
	t.Run("conversion webhook", func(t *testing.T) { conversionByPod(t, ca) })
	t.Run("aggregated API", func(t *testing.T) { aggregatedByPod(t, ca) })
}

// refused runs kubectl with a manifest, wants it to fail and returns what it said.
func refused(t *testing.T, manifest string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(env.bin, "fairlead"), append([]string{"kubectl", "--kubeconfig", env.sandbox.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(manifest)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("kubectl %v succeeded: %s", args, out)
	}
	return string(out)
}

func admissionByPod(t *testing.T, ca string) {
	hook := func(kind, name, path string) string {
		return fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: %s
metadata: {name: extended}
webhooks:
- name: %s.extended.fairlead.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 5
  namespaceSelector: {matchLabels: {extended: "yes"}}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE, UPDATE]}]
  clientConfig: {caBundle: %s, service: {namespace: extended, name: extension, path: %s}}
---`, kind, name, ca, path)
	}
	apply(t, hook("MutatingWebhookConfiguration", "mutate", "/mutate")+hook("ValidatingWebhookConfiguration", "validate", "/validate"))
	eventually(t, 20*time.Second, func() error {
		out := kubectl(t, "create", "configmap", "cargo", "-n", "extended", "--dry-run=server", "-o", "jsonpath={.metadata.labels.fairlead\\.io/harboured}")
		if out != "yes" {
			return fmt.Errorf("the mutating webhook's label is %q, want yes", out)
		}
		return nil
	})
	const bad = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rum, namespace: extended, labels: {fairlead.io/refused: contraband}}\n"
	eventually(t, 20*time.Second, func() error {
		if out := refused(t, bad, "create", "--dry-run=server", "-f", "-"); !strings.Contains(out, "the harbour master refuses: contraband") {
			return fmt.Errorf("the refusal says %s", out)
		}
		return nil
	})
}

func conversionByPod(t *testing.T, ca string) {
	apply(t, fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ships.sea.fairlead.io}
spec:
  group: sea.fairlead.io
  scope: Namespaced
  names: {plural: ships, singular: ship, kind: Ship, listKind: ShipList}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {caBundle: %s, service: {namespace: extended, name: extension, path: /convert}}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {length: {type: integer}}}}}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: string}}}}}}
`, ca))
	kubectl(t, "wait", "--for=condition=Established", "crd/ships.sea.fairlead.io", "--timeout=30s")
	eventually(t, 30*time.Second, func() error {
		cmd := exec.Command(filepath.Join(env.bin, "fairlead"), "kubectl", "--kubeconfig", env.sandbox.Kubeconfig(), "apply", "-f", "-")
		cmd.Stdin = strings.NewReader("apiVersion: sea.fairlead.io/v2\nkind: Ship\nmetadata: {name: anna, namespace: extended}\nspec: {size: 12m}\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("create a ship: %w: %s", err, out)
		}
		return nil
	})
	if out := kubectl(t, "get", "ships.v1.sea.fairlead.io", "anna", "-n", "extended", "-o", "jsonpath={.spec.length}"); out != "12" {
		t.Errorf("read as v1 the ship's length is %q, want 12", out)
	}
	if out := kubectl(t, "get", "ships.v2.sea.fairlead.io", "anna", "-n", "extended", "-o", "jsonpath={.spec.size}"); out != "12m" {
		t.Errorf("read as v2 the ship's size is %q, want 12m", out)
	}
	out := refused(t, "apiVersion: sea.fairlead.io/v2\nkind: Ship\nmetadata: {name: odd, namespace: extended}\nspec: {size: huge}\n", "create", "-f", "-")
	if !strings.Contains(out, "want metres, such as 12m") {
		t.Errorf("a ship that cannot be converted: %s", out)
	}
}

func aggregatedByPod(t *testing.T, ca string) {
	apply(t, fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.harbour.fairlead.io}
spec: {group: harbour.fairlead.io, version: v1, groupPriorityMinimum: 1000, versionPriority: 10, caBundle: %s, service: {namespace: extended, name: extension}}
`, ca))
	kubectl(t, "wait", "--for=condition=Available", "apiservice/v1.harbour.fairlead.io", "--timeout=60s")
	eventually(t, 20*time.Second, func() error {
		if out := kubectl(t, "api-resources", "--cached=false", "-o", "name"); !strings.Contains(out, "berths.harbour.fairlead.io") {
			return fmt.Errorf("discovery does not know berths yet")
		}
		return nil
	})
	if out := kubectl(t, "get", "berths", "-n", "extended", "-o", "jsonpath={.items[*].askedBy}"); !strings.Contains(out, "admin") {
		t.Errorf("the aggregated server was asked by %q, want the administrator", out)
	}
}
