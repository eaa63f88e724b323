// SPDX-License-Identifier: Apache-2.0

package images

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestKeyring(t *testing.T) {
	secret := &v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(`{"auths":{
		"https://index.docker.io/v1/":{"auth":"dTpw"}, "*.example.com":{"username":"w","password":"p"}, "registry.example.com/team":{"username":"t","password":"p"}}}`)}}
	keys, err := ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string][]string{
		"docker.io/library/busybox:1":      {"u"},
		"registry.example.com/team/app:1":  {"t", "w"},
		"registry.example.com/teams/app:1": {"w"},
		"registry.example.org/team/app:1":  nil,
		"a.b.example.com/app:1":            nil,
	} {
		var got []string
		for _, c := range keys.For(image) {
			got = append(got, c.username)
		}
		if len(got) != len(want) || len(want) > 0 && got[0] != want[0] {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}

func FuzzParseSecret(f *testing.F) {
	f.Add([]byte(`{"auths":{"a":{"auth":"dTpw"}}}`), true)
	f.Add([]byte(`{"a":{"username":"u"}}`), false)
	f.Fuzz(func(t *testing.T, data []byte, newer bool) {
		secret := &v1.Secret{Type: v1.SecretTypeDockercfg, Data: map[string][]byte{v1.DockerConfigKey: data, v1.DockerConfigJsonKey: data}}
		if newer {
			secret.Type = v1.SecretTypeDockerConfigJson
		}
		if keys, err := ParseSecret(secret); err == nil {
			keys.For("docker.io/library/busybox:1")
		}
	})
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{"busybox": "docker.io/library/busybox:latest", "example.com/a:1": "example.com/a:1", "a/b": "docker.io/a/b:latest"} {
		if got, err := Normalize(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	if _, err := Normalize("Not/An:Image:"); err == nil {
		t.Error("a broken name was accepted")
	}
}
