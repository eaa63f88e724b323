// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestVolumes(t *testing.T) {
	runPods(t, "e2e-volumes", []podCase{
		{"config maps, secrets, the downward API, projected: modes, items, updates as a whole", contentVolumes},
		{"tokens are projected for their audience, and good", projectedTokens},
		{"emptyDir: on disk, in memory, over its limit", emptyDirs},
		{"sub-paths, by expression, and links that lead out", subPaths},
		{"hostPath types, mount propagation, read-only mounts", hostPaths},
		{"a local volume bound by a claim", localVolume},
		{"an image as a volume", func(p pods) {
			p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: image-volume}
spec:
  restartPolicy: Never
  volumes: [{name: i, image: {reference: IMAGE, pullPolicy: IfNotPresent}}]
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'ls /i/testapp /etc-of-it; touch /i/x || echo cannot write'], volumeMounts: [{name: i, mountPath: /i}, {name: i, mountPath: /etc-of-it, subPath: etc}]}]`)
			p.untilPhase("image-volume", corev1.PodSucceeded)
			p.wantLog("image-volume", "app", "/i/testapp\n", "passwd\n", "cannot write\n")
		}},
		{"volumes that are not there", func(p pods) {
			p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: missing}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  volumes: [{name: s, secret: {secretName: later}}, {name: o, configMap: {name: never, optional: true}}]
  containers: [{name: app, image: IMAGE, command: [cat, /s/key], volumeMounts: [{name: s, mountPath: /s}, {name: o, mountPath: /o}]}]`)
			p.wantEvent("missing", `Warning FailedMount: MountVolume.SetUp failed for volume "s"`, `secret "later" not found`)
			p.kubectl("create", "secret", "generic", "later", "--from-literal=key=here")
			p.untilPhase("missing", corev1.PodSucceeded)
			p.wantLog("missing", "app", "here")
		}},
	})
}

func contentVolumes(p pods) {
	p.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: content}
data: {one: "1", two: "2"}
---
apiVersion: v1
kind: Secret
metadata: {name: content}
stringData: {word: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: content, labels: {a: b}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: c, configMap: {name: content}}
  - {name: i, configMap: {name: content, defaultMode: 0400, items: [{key: one, path: deep/first}, {key: two, path: second, mode: 0444}]}}
  - {name: s, secret: {secretName: content}}
  - name: p
    projected:
      sources:
      - secret: {name: content, items: [{key: word, path: s/word}]}
      - configMap: {name: content, items: [{key: two, path: c/two}]}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: app, resource: requests.cpu, divisor: 1m}}]}
  containers:
  - name: app
    image: IMAGE
    command: [/testapp, forever]
    resources: {requests: {cpu: 15m}}
    volumeMounts: [{name: c, mountPath: /c}, {name: i, mountPath: /i}, {name: s, mountPath: /s}, {name: p, mountPath: /p}]`)
	p.untilReady("content")
	got := p.sh("content", `cat /c/one /c/two /i/deep/first /s/word /p/s/word /p/c/two /p/labels /p/cpu; stat -Lc ' %a' /i/deep/first /i/second; grep -c " /s tmpfs " /proc/mounts`)
	if want := "121sesamesesame2a=\"b\"15 400\n 444\n1\n"; got != want {
		p.Errorf("content %q, want %q", got, want)
	}
	p.kubectl("patch", "configmap", "content", "-p", `{"data":{"one":"new1","two":"new2"}}`)
	p.kubectl("label", "pod", "content", "c=d")
	// One shell reads both files again and again: never one new and one old in what a link shows.
	got = p.sh("content", `while :; do cd /c/..data; x="$(cat one) $(cat two)"; cd /; case "$x" in "new1 new2") break;; "1 2") ;; *) echo "torn: $x"; exit 1;; esac; done
		until grep -q 'c="d"' /p/labels; do sleep 0.1; done; echo "$x"`)
	if got != "new1 new2\n" {
		p.Errorf("updated content %q", got)
	}
}

func projectedTokens(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: bearer}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: t, projected: {defaultMode: 0440, sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}}]
  containers: [{name: app, image: IMAGE, command: [/testapp, forever], volumeMounts: [{name: t, mountPath: /t}]}]`)
	pod := p.untilReady("bearer")
	parts := strings.Split(p.sh("bearer", "cat /t/token"), ".")
	if len(parts) != 3 {
		p.Fatalf("no token: %q", parts)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Aud        any // a list, or the one that is in it (RFC 7519)
		Iat, Exp   int64
		Kubernetes struct{ Pod struct{ Name, UID string } } `json:"kubernetes.io"`
	}
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil || strings.Trim(fmt.Sprint(claims.Aud), "[]") != "vault" || claims.Exp-claims.Iat != 600 || claims.Kubernetes.Pod.UID != string(pod.UID) {
		p.Errorf("%v %s", err, payload)
	}
	// The one every pod has is good at the API server.
	got := p.sh("bearer", `cd /var/run/secrets/kubernetes.io/serviceaccount; ls; cat namespace; head -c9 token`)
	if want := "ca.crt\nnamespace\ntoken\n" + p.ns + "eyJhbGciO"; got != want {
		p.Errorf("%q, want %q", got, want)
	}
	token := p.sh("bearer", "cat /var/run/secrets/kubernetes.io/serviceaccount/token")
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	if review, err = env.client.AuthenticationV1().TokenReviews().Create(p.Context(), review, metav1.CreateOptions{}); err != nil {
		p.Fatal(err)
	}
	if who := review.Status.User.Username; who != "system:serviceaccount:"+p.ns+":default" {
		p.Errorf("the token is %q's: %s", who, review.Status.Error)
	}
}

func emptyDirs(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: scratch}
spec:
  restartPolicy: Never
  volumes: [{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]
  containers:
  - {name: app, image: IMAGE, command: [sh, -c, 'echo x > /d/x; echo y > /m/y; grep " /m tmpfs " /proc/mounts; dd if=/dev/zero of=/m/big bs=1M count=2 2>&1'], volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}]}
  - {name: other, image: IMAGE, command: [sh, -c, 'until cat /d/x /m/y; do sleep 0.1; done'], volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hoarder}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: d, emptyDir: {sizeLimit: 1Mi}}]
  containers: [{name: app, image: IMAGE, command: [/testapp, 'fill=/d/x:3', forever], volumeMounts: [{name: d, mountPath: /d}]}]`)
	p.until("scratch", "done", func(pod *corev1.Pod) bool {
		return containerStatus(pod, "app").State.Terminated != nil && containerStatus(pod, "other").State.Terminated != nil
	})
	p.wantLog("scratch", "app", "size=1024k", "No space left on device")
	p.wantLog("scratch", "other", "x\ny\n")
	pod := p.untilPhase("hoarder", corev1.PodFailed)
	if pod.Status.Reason != "Evicted" || !strings.Contains(pod.Status.Message, `EmptyDir volume "d" exceeds the limit "1Mi"`) {
		p.Errorf("%s: %s", pod.Status.Reason, pod.Status.Message)
	}
	p.wantEvent("hoarder", "Warning Evicted")
}

func subPaths(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: parts}
spec:
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'echo x > /part/x; cat /whole/parts/made/x']
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts: [{name: v, mountPath: /part, subPathExpr: $(POD)/made}, {name: v, mountPath: /whole}]
---
apiVersion: v1
kind: Pod
metadata: {name: escaping}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {}}]
  initContainers: [{name: hostile, image: IMAGE, command: [ln, -s, /etc, /v/way-out], volumeMounts: [{name: v, mountPath: /v}]}]
  containers: [{name: app, image: IMAGE, command: [ls, /x], volumeMounts: [{name: v, mountPath: /x, subPath: way-out}]}]`)
	p.untilPhase("parts", corev1.PodSucceeded)
	p.wantLog("parts", "app", "x\n")
	pod := p.untilWaiting("escaping", "CreateContainerConfigError")
	if message := pod.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(message, "way-out") {
		p.Errorf("message %q does not name the path", message)
	}
	p.wantEvent("escaping", "Warning Failed", "way-out")
}

func hostPaths(p pods) {
	shared := "/var/lib/fairlead/e2e-shared"
	p.Cleanup(func() { os.RemoveAll(filepath.Join(dataDir("agent-1"), "e2e-shared")) })
	p.apply(strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: mounter}
spec:
  nodeName: agent-1
  terminationGracePeriodSeconds: 5
  volumes: [{name: s, hostPath: {path: SHARED, type: DirectoryOrCreate}}]
  containers:
  - name: app
    image: IMAGE
    securityContext: {privileged: true}
    command: [sh, -c, 'mkdir -p /s/m && mount -t tmpfs none /s/m && echo mounted > /s/m/file; trap "umount /s/m; exit 0" TERM; while :; do sleep 0.1; done']
    readinessProbe: {periodSeconds: 1, exec: {command: [cat, /s/m/file]}}
    volumeMounts: [{name: s, mountPath: /s, mountPropagation: Bidirectional}]
  - name: follower
    image: IMAGE
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 0.1; done']
    readinessProbe: {periodSeconds: 1, exec: {command: [cat, /s/m/file]}}
    volumeMounts: [{name: s, mountPath: /s, mountPropagation: HostToContainer}]
  - {name: private, image: IMAGE, command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 0.1; done'], volumeMounts: [{name: s, mountPath: /s, readOnly: true}]}
---
apiVersion: v1
kind: Pod
metadata: {name: mistyped}
spec:
  nodeName: agent-1
  terminationGracePeriodSeconds: 1
  volumes: [{name: s, hostPath: {path: /etc/hostname, type: Directory}}]
  containers: [{name: app, image: IMAGE, command: [ls], volumeMounts: [{name: s, mountPath: /s}]}]`, "SHARED", shared))
	p.untilReady("mounter")
	if out, errOut, err := p.try("exec", "", "mounter", "-c", "private", "--", "sh", "-c", "touch /s/x"); err == nil || !strings.Contains(errOut, "Read-only file system") {
		p.Errorf("writing to a read-only mount: %v %s%s", err, out, errOut)
	}
	p.wantEvent("mistyped", "Warning FailedMount", "/etc/hostname", "not a directory")
	p.kubectl("delete", "pod", "mounter")
}

func localVolume(p pods) {
	dir := filepath.Join(dataDir("agent-2"), "e2e-local")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		kubectl(p.T, "delete", "pv", "e2e-local", "--ignore-not-found", "--wait=false")
		os.RemoveAll(dir)
	})
	p.apply(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-local}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: e2e-local
  persistentVolumeReclaimPolicy: Retain
  local: {path: /var/lib/fairlead/e2e-local}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [agent-2]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], storageClassName: e2e-local, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  restartPolicy: Never
  securityContext: {fsGroup: 4567}
  volumes: [{name: v, persistentVolumeClaim: {claimName: claim}}]
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'echo kept > /v/file; stat -c %g /v/file'], volumeMounts: [{name: v, mountPath: /v}]}]`)
	if pod := p.untilPhase("keeper", corev1.PodSucceeded); pod.Spec.NodeName != "agent-2" {
		p.Errorf("the pod ran on %s, away from its volume", pod.Spec.NodeName)
	}
	p.wantLog("keeper", "app", "4567\n")
	p.kubectl("delete", "pod", "keeper")
	if data, err := os.ReadFile(filepath.Join(dir, "file")); string(data) != "kept\n" {
		p.Error(fmt.Errorf("after the pod the volume has %q: %v", data, err))
	}
}
