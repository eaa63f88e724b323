// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ask returns the user name and groups of a request for path with a bearer token; an empty name means refused.
func ask(t *testing.T, a *Authentication, path, token string) (string, []string, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, ok, err := a.Request.AuthenticateRequest(r)
	if !ok {
		return "", nil, err
	}
	return resp.User.GetName(), resp.User.GetGroups(), err
}

func TestAnonymousAndTokenFile(t *testing.T) {
	file := write(t, "tokens.csv", "secret-1,ann,uid-1,\"dev,ops\"\n")
	a, err := New(t.Context(), Config{TokenFile: file, Audiences: []string{"api"}})
	if err != nil {
		t.Fatal(err)
	}
	if name, groups, err := ask(t, a, "/api", "secret-1"); name != "ann" || !slices.Equal(groups, []string{"dev", "ops", "system:authenticated"}) {
		t.Errorf("ann is %q in %q: %v", name, groups, err)
	}
	if name, groups, _ := ask(t, a, "/api", ""); name != "system:anonymous" || !slices.Equal(groups, []string{"system:unauthenticated"}) {
		t.Errorf("without credential: %q in %q", name, groups)
	}
	if name, _, err := ask(t, a, "/api", "wrong"); name != "" || err == nil {
		t.Errorf("a wrong token makes %q (%v), want a refusal, not an anonymous user", name, err)
	}
	a, err = New(t.Context(), Config{TokenFile: file, Audiences: []string{"api"}, NoAnonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	if name, _, _ := ask(t, a, "/api", ""); name != "" {
		t.Errorf("anonymous requests are off, but %q came in", name)
	}
	if _, err := New(t.Context(), Config{NoAnonymous: true}); err == nil {
		t.Error("a configuration with which nobody can log in was accepted")
	}
}

// provider is an OpenID provider.
type provider struct {
	*httptest.Server
	key *ecdsa.PrivateKey
	ca  string
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	mux := http.NewServeMux()
	answer := func(v func() any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(v()); err != nil {
				t.Error(err)
			}
		}
	}
	mux.HandleFunc("/.well-known/openid-configuration", answer(func() any { return map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys"} }))
	mux.HandleFunc("/keys", answer(func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}}
	}))
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	p.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
	return p
}

func (p *provider) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"iss": p.URL, "aud": "cluster", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for k, v := range claims {
		all[k] = v
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (p *provider) config(prefix string) string {
	return fmt.Sprintf(`
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /healthz
jwt:
- issuer:
    url: %s
    audiences: [cluster]
    certificateAuthority: |
%s
  claimMappings:
    username: {claim: sub, prefix: %q}
    groups: {claim: roles, prefix: ""}
  userValidationRules:
  - expression: "!user.username.startsWith('system:')"
    message: reserved
`, p.URL, "      "+strings.ReplaceAll(strings.TrimSpace(p.ca), "\n", "\n      "), prefix)
}

// until asks again until the answer is what is wanted: a provider is looked up in the background.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestOpenIDByConfigurationFile(t *testing.T) {
	p := newProvider(t)
	file := write(t, "authentication.yaml", p.config("oidc:"))
	fake := clocktesting.NewFakeClock(time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, err := New(ctx, Config{ConfigFile: file, Audiences: []string{"api"}, Clock: fake, SuccessCacheTTL: -1})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()

	good := p.token(t, map[string]any{"sub": "ann", "roles": []string{"dev"}})
	until(t, "ann comes in", func() bool { name, _, _ := ask(t, a, "/api", good); return name == "oidc:ann" })
	if _, groups, _ := ask(t, a, "/api", good); !slices.Equal(groups, []string{"dev", "system:authenticated"}) {
		t.Errorf("groups %q", groups)
	}
	for name, claims := range map[string]map[string]any{
		"for another audience": {"sub": "ann", "aud": "other"}, "expired": {"sub": "ann", "exp": time.Now().Add(-time.Hour).Unix()}, "without subject": {},
	} {
		if who, _, err := ask(t, a, "/api", p.token(t, claims)); who != "" || err == nil {
			t.Errorf("%s: came in as %q (%v)", name, who, err)
		}
	}
	if who, _, _ := ask(t, a, "/healthz", ""); who != "system:anonymous" {
		t.Errorf("anonymous on the path that allows it: %q", who)
	}
	if who, _, _ := ask(t, a, "/api", ""); who != "" {
		t.Errorf("anonymous elsewhere: %q", who)
	}

	change := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	step := func() {
		if fake.HasWaiters() {
			fake.Step(followEvery)
		}
	}
	change(p.config(""))
	until(t, "the new version is used", func() bool { step(); who, _, _ := ask(t, a, "/api", good); return who == "ann" })
	if who, _, _ := ask(t, a, "/api", p.token(t, map[string]any{"sub": "system:admin"})); who != "" {
		t.Errorf("a provider made a system user: %q", who)
	}
	change("kind: nonsense")
	for range 5 {
		step()
	}
	if who, _, err := ask(t, a, "/api", good); who != "ann" {
		t.Errorf("a bad version replaced the good one: %q, %v", who, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConfigurationFilesThatAreRefused(t *testing.T) {
	p := newProvider(t)
	for name, text := range map[string]string{
		"empty":             "",
		"another kind":      "apiVersion: v1\nkind: Pod\n",
		"an unknown field":  p.config("x") + "surprise: true\n",
		"no https":          strings.Replace(p.config("x"), "https://", "http://", 1),
		"a bad expression":  strings.Replace(p.config("x"), "!user.username", "!!!user.", 1),
		"our own issuer":    strings.Replace(p.config("x"), p.URL, "https://kubernetes.default.svc", 1),
		"nonsense in YAML":  "\t: [",
		"a bad certificate": strings.Replace(p.config("x"), "BEGIN CERTIFICATE", "BEGIN NOTHING", 1),
	} {
		t.Run(name, func(t *testing.T) {
			f := &configFile{cfg: Config{Issuers: []string{"https://kubernetes.default.svc"}}}
			if _, err := openConfigFile(t.Context(), Config{ConfigFile: write(t, "c.yaml", text), Issuers: f.cfg.Issuers}); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestWebhook(t *testing.T) {
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: review.Spec.Token == "good",
			User: authenticationv1.UserInfo{Username: "hooked", Groups: []string{"g"}}}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	defer hook.Close()
	kubeconfig := write(t, "hook.yaml", fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, hook.URL))
	a, err := New(t.Context(), Config{WebhookConfigFile: kubeconfig, Audiences: []string{"api"}})
	if err != nil {
		t.Fatal(err)
	}
	if who, groups, err := ask(t, a, "/api", "good"); who != "hooked" || !slices.Equal(groups, []string{"g", "system:authenticated"}) {
		t.Errorf("%q in %q: %v", who, groups, err)
	}
	if who, _, _ := ask(t, a, "/api", "bad"); who != "" {
		t.Errorf("came in as %q", who)
	}
}

func FuzzParseAuthentication(f *testing.F) {
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"))
	f.Add([]byte("{}"))
	f.Add([]byte("\t"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseAuthentication(data); err == nil && c == nil {
			t.Error("neither a configuration nor an error")
		}
	})
}
