// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestParseManifest(t *testing.T) {
	good := "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: 'x:1'}, {name: b, image: x}]}\n"
	pod, err := ParseManifest([]byte(good), "/m/web.yaml", "Node")
	if err != nil {
		t.Fatal(err)
	}
	if pod.Name != "web-node" || pod.Namespace != "default" || pod.Spec.RestartPolicy != v1.RestartPolicyAlways ||
		pod.Spec.Containers[0].ImagePullPolicy != v1.PullIfNotPresent || pod.Spec.Containers[1].ImagePullPolicy != v1.PullAlways {
		t.Errorf("%+v", pod)
	}
	other, err := ParseManifest([]byte(strings.Replace(good, "x:1", "x:2", 1)), "/m/web.yaml", "Node")
	if err != nil || other.UID == pod.UID {
		t.Errorf("another content has the same UID: %v", err)
	}
	for name, text := range map[string]string{
		"another kind": strings.Replace(good, "Pod", "Service", 1), "a field that does not exist": strings.Replace(good, "spec: {", "spec: {nope: 1, ", 1),
		"no containers": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "not YAML": "\t{",
	} {
		if _, err := ParseManifest([]byte(text), "f", "n"); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: x}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if pod, err := ParseManifest(data, "f", "n"); err == nil && (pod.UID == "" || len(pod.Spec.Containers) == 0) {
			t.Errorf("%+v", pod)
		}
	})
}
