// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Credential opens a registry.
type Credential struct {
	registry                     string // host[:port][/path], host parts may be *
	username, password, identity string
	registryToken                string
}

func (c Credential) auth() *runtimeapi.AuthConfig {
	return &runtimeapi.AuthConfig{Username: c.username, Password: c.password, IdentityToken: c.identity, RegistryToken: c.registryToken}
}

// Keyring is the credentials of a pod's image pull secrets.
type Keyring []Credential

type dockerEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// ParseSecret reads a secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
func ParseSecret(secret *v1.Secret) (Keyring, error) {
	var keys Keyring
	var err error
	switch secret.Type {
	case v1.SecretTypeDockerConfigJson:
		keys, err = ParseConfig(secret.Data[v1.DockerConfigJsonKey])
	case v1.SecretTypeDockercfg:
		entries := map[string]dockerEntry{}
		if err = json.Unmarshal(secret.Data[v1.DockerConfigKey], &entries); err == nil {
			keys, err = keyring(entries)
		}
	default:
		err = fmt.Errorf("type is %q, not %q", secret.Type, v1.SecretTypeDockerConfigJson)
	}
	if err != nil {
		return nil, fmt.Errorf("image pull secret %s: %w", secret.Name, err)
	}
	return keys, nil
}

// ParseConfig reads the credentials in docker's config.json.
func ParseConfig(data []byte) (Keyring, error) {
	var config struct {
		Auths map[string]dockerEntry `json:"auths"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, err
	}
	return keyring(config.Auths)
}

func keyring(entries map[string]dockerEntry) (Keyring, error) {
	var out Keyring
	for registry, entry := range entries {
		if entry.Auth != "" {
			decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
			if err != nil {
				return nil, fmt.Errorf("auth of %s: %w", registry, err)
			}
			user, password, ok := strings.Cut(strings.TrimRight(string(decoded), "\x00"), ":")
			if !ok {
				return nil, fmt.Errorf("auth of %s is not user:password", registry)
			}
			entry.Username, entry.Password = user, password
		}
		out = append(out, Credential{registry: trim(registry), username: entry.Username, password: entry.Password,
			identity: entry.IdentityToken, registryToken: entry.RegistryToken})
	}
	slices.SortFunc(out, func(a, b Credential) int { return strings.Compare(b.registry, a.registry) }) // longer paths first
	return out, nil
}

// trim removes scheme and API version from a registry's name.
func trim(registry string) string {
	for _, prefix := range []string{"https://", "http://"} {
		registry = strings.TrimPrefix(registry, prefix)
	}
	registry = strings.TrimSuffix(registry, "/")
	for _, suffix := range []string{"/v1", "/v2"} {
		registry = strings.TrimSuffix(registry, suffix)
	}
	if registry == "index.docker.io" {
		return "docker.io"
	}
	return registry
}

// For returns the credentials that fit an image, by its full reference: the most specific first.
func (k Keyring) For(image string) []Credential {
	var out []Credential
	for _, c := range k {
		if c.fits(image) {
			out = append(out, c)
		}
	}
	return out
}

func (c Credential) fits(image string) bool {
	wantHost, wantPath, _ := strings.Cut(c.registry, "/")
	host, repository, _ := strings.Cut(image, "/")
	if wantPath != "" && repository != wantPath && !strings.HasPrefix(repository, wantPath+"/") && !strings.HasPrefix(repository, wantPath+":") &&
		!strings.HasPrefix(repository, wantPath+"@") {
		return false
	}
	want, have := strings.Split(wantHost, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
