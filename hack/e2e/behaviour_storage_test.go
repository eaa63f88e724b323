// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// TestStorageBehaviours tries entries of sig-storage in Kubernetes' conformance list.
func TestStorageBehaviours(t *testing.T) {
	runBehaviours(t, "storage", []behaviour{
		{"an emptyDir's modes: on disk and in memory, root and another user", emptyDirModes},
		{"modes and owners of secrets, config maps, the downward API, alone and projected", contentModes},
		{"optional sources that come, change and go", optionalSources},
		{"labels and annotations that change", downwardUpdates},
		{"binary data, several mounts of one source, sub-paths, an existing file", contentMounts},
		{"a secret of the same name elsewhere; immutable ones", secretsApart},
		{"fifty config maps in each of five pods", manyMaps},
		{"a claim and its volume: bound, status by hand, replaced, gone", claimAndVolume},
		{"pods with inline volumes of a driver that is not there", inlineVolumes},
	})
}

func emptyDirModes(b trial) {
	var mounts, volumes, script strings.Builder
	for _, medium := range []string{"", "Memory"} {
		name := "v" + strings.ToLower(medium)
		fmt.Fprintf(&volumes, "  - {name: %s, emptyDir: {medium: %q}}\n", name, medium)
		fmt.Fprintf(&mounts, "{name: %s, mountPath: /%s}, ", name, name)
		fmt.Fprintf(&script, "stat -c '%%a' /%s; for m in 0644 0666 0777; do f=/%s/$(id -u)-$m; echo mount-tester > $f && chmod $m $f && stat -c '%%a %%u' $f && cat $f; done; ", name, name)
	}
	for name, user := range map[string]string{"root": "0", "other": "1001"} {
		b.create(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  restartPolicy: Never
  volumes:
` + volumes.String() + `
  containers: [{name: app, image: IMAGE, securityContext: {runAsUser: ` + user + `}, command: [sh, -c, "` + script.String() + `"], volumeMounts: [` + mounts.String() + `]}]`)
		b.untilPhase(name, corev1.PodSucceeded)
		one := strings.ReplaceAll("777\n644 U\nmount-tester\n666 U\nmount-tester\n777 U\nmount-tester\n", "U", user)
		if log := b.log(name, "app"); log != one+one {
			b.Errorf("%s: %q, want %q twice", name, log, one)
		}
	}
}

// contents are a config map and a secret with the keys data-1 to data-3.
const contents = `
{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {data-1: value-1, data-2: value-2, data-3: value-3}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {data-1: value-1, data-2: value-2, data-3: value-3}}
---
`

func contentModes(b trial) {
	b.create(contents)
	items := "items: [{key: data-2, path: path/to/it"
	field := "{path: name, fieldRef: {fieldPath: metadata.name}"
	type variant struct{ name, source, file, want string }
	variants := []variant{
		{"c-plain", "configMap: {name: c}", "data-1", "644 0 value-1"},
		{"c-mode", "configMap: {name: c, defaultMode: 0400}", "data-1", "400 0 value-1"},
		{"c-item", "configMap: {name: c, " + items + "}]}", "path/to/it", "644 0 value-2"},
		{"c-item-mode", "configMap: {name: c, " + items + ", mode: 0400}]}", "path/to/it", "400 0 value-2"},
		{"s-plain", "secret: {secretName: s}", "data-1", "644 0 value-1"},
		{"s-mode", "secret: {secretName: s, defaultMode: 0400}", "data-1", "400 0 value-1"},
		{"s-item", "secret: {secretName: s, " + items + "}]}", "path/to/it", "644 0 value-2"},
		{"s-item-mode", "secret: {secretName: s, " + items + ", mode: 0400}]}", "path/to/it", "400 0 value-2"},
		{"d-plain", "downwardAPI: {items: [" + field + "}]}", "name", "644 0 plain"},
		{"d-mode", "downwardAPI: {defaultMode: 0400, items: [" + field + "}]}", "name", "400 0 plain"},
		{"d-item", "downwardAPI: {items: [" + field + ", mode: 0400}]}", "name", "400 0 plain"},
		{"pc-plain", "projected: {sources: [{configMap: {name: c}}]}", "data-1", "644 0 value-1"},
		{"pc-mode", "projected: {defaultMode: 0400, sources: [{configMap: {name: c}}]}", "data-1", "400 0 value-1"},
		{"pc-item", "projected: {sources: [{configMap: {name: c, " + items + "}]}}]}", "path/to/it", "644 0 value-2"},
		{"pc-item-mode", "projected: {sources: [{configMap: {name: c, " + items + ", mode: 0400}]}}]}", "path/to/it", "400 0 value-2"},
		{"ps-plain", "projected: {sources: [{secret: {name: s}}]}", "data-1", "644 0 value-1"},
		{"ps-mode", "projected: {defaultMode: 0400, sources: [{secret: {name: s}}]}", "data-1", "400 0 value-1"},
		{"ps-item-mode", "projected: {sources: [{secret: {name: s, " + items + ", mode: 0400}]}}]}", "path/to/it", "400 0 value-2"},
		{"pd-plain", "projected: {sources: [{downwardAPI: {items: [" + field + "}]}}]}", "name", "644 0 plain"},
		{"pd-mode", "projected: {defaultMode: 0400, sources: [{downwardAPI: {items: [" + field + "}]}}]}", "name", "400 0 plain"},
		{"pd-item", "projected: {sources: [{downwardAPI: {items: [" + field + ", mode: 0400}]}}]}", "name", "400 0 plain"},
	}
	pod := func(name, security string, variants []variant) {
		b.Helper()
		var volumes, mounts, script, want strings.Builder
		for _, v := range variants {
			fmt.Fprintf(&volumes, "{name: %s, %s}, ", v.name, v.source)
			fmt.Fprintf(&mounts, "{name: %s, mountPath: /%s}, ", v.name, v.name)
			fmt.Fprintf(&script, "echo %s $(stat -Lc '%%a %%g' /%s/%s) $(cat /%s/%s); ", v.name, v.name, v.file, v.name, v.file)
			fmt.Fprintf(&want, "%s %s\n", v.name, v.want)
		}
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {restartPolicy: Never, securityContext: {` + security + `}, volumes: [` + volumes.String() + `],
containers: [{name: app, image: IMAGE, command: [sh, -c, "` + script.String() + `"], volumeMounts: [` + mounts.String() + `]}]}}`)
		b.untilPhase(name, corev1.PodSucceeded)
		if log := b.log(name, "app"); log != want.String() {
			b.Errorf("%s:\n%swant\n%s", name, log, want.String())
		}
	}
	pod("plain", "", variants)
	pod("other", "runAsUser: 1000", []variant{variants[0], variants[2], variants[11], variants[13]})
	pod("group", "runAsUser: 1000, fsGroup: 1001", []variant{
		{"s", "secret: {secretName: s, defaultMode: 0440}", "data-1", "440 1001 value-1"},
		{"ps", "projected: {defaultMode: 0440, sources: [{secret: {name: s}}]}", "data-1", "440 1001 value-1"},
		{"c", "configMap: {name: c, defaultMode: 0440}", "data-1", "440 1001 value-1"},
	})
}

func optionalSources(b trial) {
	var volumes, mounts strings.Builder
	for _, which := range []string{"create", "update", "delete"} {
		for name, source := range map[string]string{
			"c": "configMap: {name: %s, optional: true}", "s": "secret: {secretName: %s, optional: true}",
			"pc": "projected: {sources: [{configMap: {name: %s, optional: true}}]}", "ps": "projected: {sources: [{secret: {name: %s, optional: true}}]}",
		} {
			fmt.Fprintf(&volumes, "{name: %s-%s, %s}, ", name, which, fmt.Sprintf(source, which))
			fmt.Fprintf(&mounts, "{name: %s-%s, mountPath: /%s/%s}, ", name, which, name, which)
		}
		if which != "create" {
			b.create(`
{apiVersion: v1, kind: ConfigMap, metadata: {name: ` + which + `}, data: {key: before}}
---
{apiVersion: v1, kind: Secret, metadata: {name: ` + which + `}, stringData: {key: before}}`)
		}
	}
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, volumes: [` + volumes.String() + `],
containers: [{name: app, image: IMAGE, command: [/testapp, forever], volumeMounts: [` + mounts.String() + `]}]}}`)
	b.untilReady("p")
	b.create(`
{apiVersion: v1, kind: ConfigMap, metadata: {name: create}, data: {key: after}}
---
{apiVersion: v1, kind: Secret, metadata: {name: create}, stringData: {key: after}}`)
	maps, secrets := env.client.CoreV1().ConfigMaps(b.ns), env.client.CoreV1().Secrets(b.ns)
	_, err := maps.Patch(b.Context(), "update", types.MergePatchType, []byte(`{"data":{"key":"after"}}`), metav1.PatchOptions{})
	b.must(err)
	_, err = secrets.Patch(b.Context(), "update", types.MergePatchType, []byte(`{"stringData":{"key":"after"}}`), metav1.PatchOptions{})
	b.must(err)
	b.must(maps.Delete(b.Context(), "delete", metav1.DeleteOptions{}))
	b.must(secrets.Delete(b.Context(), "delete", metav1.DeleteOptions{}))
	script := "for d in c s pc ps; do echo $d $(cat /$d/create/key) $(cat /$d/update/key) $(ls /$d/delete); done"
	b.untilFiles("p", script, strings.ReplaceAll("c X\ns X\npc X\nps X\n", "X", "after after"))
}

// untilFiles waits until a script in a pod prints this; a volume follows its sources within a minute and a half or so.
func (b trial) untilFiles(pod, script, want string) {
	b.Helper()
	eventually(b.T, 2*podPatience, func() error {
		if got, err := b.exec(pod, "", script); err != nil || got != want {
			return fmt.Errorf("%q %v, want %q", got, err, want)
		}
		return nil
	})
}

func downwardUpdates(b trial) {
	items := "[{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: annotations, fieldRef: {fieldPath: metadata.annotations}}]"
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {a: "1"}, annotations: {x: "1"}}, spec: {terminationGracePeriodSeconds: 0,
volumes: [{name: d, downwardAPI: {items: ` + items + `}}, {name: p, projected: {sources: [{downwardAPI: {items: ` + items + `}}]}}],
containers: [{name: app, image: IMAGE, command: [/testapp, forever], volumeMounts: [{name: d, mountPath: /d}, {name: p, mountPath: /p}]}]}}`)
	b.untilReady("p")
	script := "for d in /d /p; do echo $(grep -o 'a=.*' $d/labels) $(grep -o '^x=.*' $d/annotations); done"
	b.untilFiles("p", script, strings.Repeat("a=\"1\" x=\"1\"\n", 2))
	_, err := env.client.CoreV1().Pods(b.ns).Patch(b.Context(), "p", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"2"},"annotations":{"x":"2"}}}`), metav1.PatchOptions{})
	b.must(err)
	b.untilFiles("p", script, strings.Repeat("a=\"2\" x=\"2\"\n", 2))
}

func contentMounts(b trial) {
	b.create(contents + `{apiVersion: v1, kind: ConfigMap, metadata: {name: b}, data: {text: words}, binaryData: {bytes: ` + base64.StdEncoding.EncodeToString([]byte{0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff}) + `}}`)
	b.create(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: OnFailure
  volumes:
  - {name: b, configMap: {name: b}}
  - {name: c1, configMap: {name: c}}
  - {name: c2, configMap: {name: c}}
  - {name: s1, secret: {secretName: s}}
  - {name: s2, secret: {secretName: s}}
  - {name: p, projected: {sources: [{configMap: {name: c, items: [{key: data-1, path: from/map}]}}, {secret: {name: s, items: [{key: data-2, path: from/secret}]}}]}}
  - {name: d, downwardAPI: {items: [{path: part/name, fieldRef: {fieldPath: metadata.name}}]}}
  - {name: e, emptyDir: {}}
  containers:
  - name: app
    image: IMAGE
    # The second round has the sub-paths again, after a restart of the container.
    command: [sh, -c, 'cat /b/text; echo; xxd -p /b/bytes; cat /c1/data-1 /c2/data-1 /s1/data-1 /s2/data-1 /file /etc/passwd /part/map /part/secret /d/name; echo; test -f /e/again || { touch /e/again; exit 1; }']
    volumeMounts:
    - {name: b, mountPath: /b}
    - {name: c1, mountPath: /c1}
    - {name: c2, mountPath: /c2}
    - {name: s1, mountPath: /s1}
    - {name: s2, mountPath: /s2}
    - {name: c1, mountPath: /file, subPath: data-2}
    - {name: s1, mountPath: /etc/passwd, subPath: data-3}
    - {name: p, mountPath: /part, subPath: from}
    - {name: d, mountPath: /d, subPath: part}
    - {name: e, mountPath: /e}`)
	if pod := b.untilPhase("p", corev1.PodSucceeded); pod.Status.ContainerStatuses[0].RestartCount != 1 {
		b.Errorf("%+v", pod.Status)
	}
	if log, want := b.log("p", "app"), "words\ndecafebad0feff\nvalue-1value-1value-1value-1value-2value-3value-1value-2p\n"; log != want {
		b.Errorf("%q, want %q", log, want)
	}
}

func secretsApart(b trial) {
	other := inNamespace(b.T, b.ns+"-other")
	_, err := env.client.CoreV1().Secrets(other).Create(b.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"data-1": "other"}}, metav1.CreateOptions{})
	b.must(err)
	b.create(contents + `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {restartPolicy: Never, volumes: [{name: s, secret: {secretName: s}}],
containers: [{name: app, image: IMAGE, command: [cat, /s/data-1], volumeMounts: [{name: s, mountPath: /s}]}]}}`)
	b.untilPhase("p", corev1.PodSucceeded)
	if log := b.log("p", "app"); log != "value-1" {
		b.Errorf("%q", log)
	}
	for kind, name := range map[string]string{"ConfigMap": "c", "Secret": "s"} {
		api := b.resource("v1", kind)
		patch := func(text string) error {
			_, err := api.Patch(b.Context(), name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
			return err
		}
		b.must(patch(`{"data":{"data-1":"bmV3"}}`))
		b.must(patch(`{"immutable":true}`))
		for _, text := range []string{`{"data":{"data-1":"b3RoZXI="}}`, `{"immutable":false}`, `{"immutable":null}`} {
			if err := patch(text); !apierrors.IsInvalid(err) {
				b.Errorf("%s of an immutable %s: %v", text, kind, err)
			}
		}
		b.must(patch(`{"metadata":{"labels":{"a":"b"}}}`))
		b.must(api.Delete(b.Context(), name, metav1.DeleteOptions{}))
	}
}

func manyMaps(b trial) {
	var volumes, mounts strings.Builder
	for i := range 50 {
		b.create(fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: m%d}, data: {key: value}}", i))
		fmt.Fprintf(&volumes, "{name: v%d, configMap: {name: m%d}}, ", i, i)
		fmt.Fprintf(&mounts, "{name: v%d, mountPath: /m/%d}, ", i, i)
	}
	for i := range 5 {
		b.create(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: p%d}, spec: {restartPolicy: Never, nodeName: agent-2, volumes: [%s],
containers: [{name: app, image: IMAGE, command: [sh, -c, 'cat /m/*/key | wc -c'], volumeMounts: [%s]}]}}`, i, volumes.String(), mounts.String()))
	}
	for i := range 5 {
		name := fmt.Sprintf("p%d", i)
		b.untilPhase(name, corev1.PodSucceeded)
		if log := b.log(name, "app"); log != "250\n" {
			b.Errorf("%s: %q", name, log)
		}
	}
}

func claimAndVolume(b trial) {
	volumes, claims := env.client.CoreV1().PersistentVolumes(), env.client.CoreV1().PersistentVolumeClaims(b.ns)
	pair := func(suffix string) {
		b.Helper()
		b.create(strings.ReplaceAll(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: NS-N, labels: {e2e: NS}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: NS
  persistentVolumeReclaimPolicy: Retain
  csi: {driver: none.example.com, volumeHandle: h}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: c-N, labels: {e2e: NS}}
spec: {accessModes: [ReadWriteOnce], storageClassName: NS, resources: {requests: {storage: 1Gi}}}`, "-N", "-"+suffix))
		b.eventually(func() error {
			claim, err := claims.Get(b.Context(), "c-"+suffix, metav1.GetOptions{})
			if err != nil || claim.Status.Phase != corev1.ClaimBound {
				return fmt.Errorf("%+v %v", claim.Status, err)
			}
			volume, err := volumes.Get(b.Context(), b.ns+"-"+suffix, metav1.GetOptions{})
			if err != nil || volume.Status.Phase != corev1.VolumeBound || claim.Spec.VolumeName != volume.Name {
				return fmt.Errorf("%+v %v", volume.Status, err)
			}
			return nil
		})
	}
	gone := func(suffix string) {
		b.Helper()
		b.eventually(func() error {
			if _, err := claims.Get(b.Context(), "c-"+suffix, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the claim is still there: %v", err)
			}
			if _, err := volumes.Get(b.Context(), b.ns+"-"+suffix, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the volume is still there: %v", err)
			}
			return nil
		})
	}
	pair("1")
	if got, err := claims.Patch(b.Context(), "c-1", types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True","reason":"ByHand"}]}}`), metav1.PatchOptions{}, "status"); err != nil || len(got.Status.Conditions) != 1 {
		b.Errorf("%v %v", got, err)
	}
	if got, err := volumes.Patch(b.Context(), b.ns+"-1", types.MergePatchType, []byte(`{"status":{"message":"patched","reason":"ByHand"}}`), metav1.PatchOptions{}, "status"); err != nil || got.Status.Reason != "ByHand" {
		b.Errorf("%v %v", got, err)
	}
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		claim, err := claims.Get(b.Context(), "c-1", metav1.GetOptions{})
		b.must(err)
		claim.Status.Conditions = append(claim.Status.Conditions, corev1.PersistentVolumeClaimCondition{Type: "StatusUpdated", Status: corev1.ConditionTrue})
		claim, err = claims.UpdateStatus(b.Context(), claim, metav1.UpdateOptions{})
		if err == nil && len(claim.Status.Conditions) != 2 {
			b.Errorf("%+v", claim.Status)
		}
		return err
	}))
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		volume, err := volumes.Get(b.Context(), b.ns+"-1", metav1.GetOptions{})
		b.must(err)
		volume.Status.Message = "updated"
		volume, err = volumes.UpdateStatus(b.Context(), volume, metav1.UpdateOptions{})
		if err == nil && volume.Status.Message != "updated" {
			b.Errorf("%+v", volume.Status)
		}
		return err
	}))
	b.must(claims.Delete(b.Context(), "c-1", metav1.DeleteOptions{}))
	b.must(volumes.Delete(b.Context(), b.ns+"-1", metav1.DeleteOptions{}))
	gone("1")
	pair("2")
	only := metav1.ListOptions{LabelSelector: "e2e=" + b.ns}
	b.must(claims.DeleteCollection(b.Context(), metav1.DeleteOptions{}, only))
	b.must(volumes.DeleteCollection(b.Context(), metav1.DeleteOptions{}, only))
	gone("2")
}

func inlineVolumes(b trial) {
	b.create(`{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: NS.example.com}, spec: {attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral]}}`)
	b.Cleanup(func() { kubectl(b.T, "delete", "csidriver", b.ns+".example.com", "--ignore-not-found") })
	for _, name := range []string{"p1", "p2"} {
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `, labels: {a: b}}, spec: {terminationGracePeriodSeconds: 0, volumes: [{name: v, csi: {driver: NS.example.com, volumeAttributes: {a: b}}}],
containers: [{name: app, image: IMAGE, command: [/testapp, forever], volumeMounts: [{name: v, mountPath: /v}]}]}}`)
	}
	b.wantEvent("p1", "Warning FailedMount", b.ns+".example.com")
	pods := env.client.CoreV1().Pods(b.ns)
	if got, err := pods.Patch(b.Context(), "p1", types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{}); err != nil || got.Labels["patched"] != "yes" {
		b.Errorf("%v %v", got, err)
	}
	b.must(pods.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}))
	b.untilGone("p1")
	b.untilGone("p2")
}
