// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/fake"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

const issuerURL = "https://kubernetes.default.svc.cluster.local"

var (
	now      = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	apiAud   = authenticator.Audiences{issuerURL}
	ourKey   = mustKey()
	otherKey = mustKey()
)

func mustKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func named(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

// world is a namespace "a" with a service account, a pod of it on a node, and a secret.
func world() *fake.Clientset {
	return fake.NewClientset(
		&corev1.ServiceAccount{ObjectMeta: named("a", "bot", "sa-1")},
		&corev1.ServiceAccount{ObjectMeta: named("a", "other", "sa-2")},
		&corev1.Pod{ObjectMeta: named("a", "web", "pod-1"), Spec: corev1.PodSpec{ServiceAccountName: "bot", NodeName: "n1"}},
		&corev1.Secret{ObjectMeta: named("a", "keep", "secret-1")},
		&corev1.Node{ObjectMeta: named("", "n1", "node-1")},
	)
}

type rig struct {
	client    *fake.Clientset
	clock     *clocktesting.FakePassiveClock
	issuer    *Issuer
	rest      *REST
	validator *Validator
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{client: world(), clock: clocktesting.NewFakePassiveClock(now)}
	var err error
	if r.issuer, err = NewIssuer(issuerURL, ourKey); err != nil {
		t.Fatal(err)
	}
	get := NewLiveGetter(r.client)
	r.rest = NewREST(RequestConfig{Issuer: r.issuer, Get: get, Audiences: apiAud, Clock: r.clock})
	if r.validator, err = NewValidator([]string{issuerURL}, []crypto.PublicKey{ourKey.Public()}, apiAud, get, r.clock); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) request(t testing.TB, spec authenticationv1.TokenRequestSpec) (*authenticationv1.TokenRequest, error) {
	t.Helper()
	ctx := genericapirequest.WithNamespace(t.Context(), "a")
	out, err := r.rest.Create(ctx, "bot", &authenticationv1.TokenRequest{Spec: spec}, nil, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return out.(*authenticationv1.TokenRequest), nil
}

func (r *rig) token(t testing.TB, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	tr, err := r.request(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	return tr.Status.Token
}

func boundTo(kind, name string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}
}

func TestAnIssuedTokenAuthenticates(t *testing.T) {
	for _, c := range []struct {
		name  string
		spec  authenticationv1.TokenRequestSpec
		extra map[string]string
	}{
		{"bound to nothing", authenticationv1.TokenRequestSpec{}, nil},
		{"bound to a pod", authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "web")}, map[string]string{
			"authentication.kubernetes.io/pod-name": "web", "authentication.kubernetes.io/pod-uid": "pod-1",
			"authentication.kubernetes.io/node-name": "n1", "authentication.kubernetes.io/node-uid": "node-1",
		}},
		{"bound to a secret", authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Secret", "keep")}, nil},
		{"bound to a node", authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Node", "n1")}, map[string]string{
			"authentication.kubernetes.io/node-name": "n1", "authentication.kubernetes.io/node-uid": "node-1",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			resp, ok, err := r.validator.AuthenticateToken(t.Context(), r.token(t, c.spec))
			if err != nil || !ok {
				t.Fatalf("not authenticated: %v", err)
			}
			if got := resp.User.GetName(); got != "system:serviceaccount:a:bot" {
				t.Errorf("user %s", got)
			}
			if got := resp.User.GetGroups(); !slices.Equal(got, []string{"system:serviceaccounts", "system:serviceaccounts:a"}) {
				t.Errorf("groups %q", got)
			}
			if resp.User.GetUID() != "sa-1" {
				t.Errorf("uid %s", resp.User.GetUID())
			}
			extra := resp.User.GetExtra()
			if id := extra["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
				t.Errorf("credential id %q", id)
			}
			if len(extra) != len(c.extra)+1 {
				t.Errorf("extra %v, want %v and the credential id", extra, c.extra)
			}
			for k, v := range c.extra {
				if !slices.Equal(extra[k], []string{v}) {
					t.Errorf("extra %s is %q, want %s", k, extra[k], v)
				}
			}
		})
	}
}

func TestATokenEndsWithWhatItIsBoundTo(t *testing.T) {
	for _, c := range []struct {
		name string
		to   *authenticationv1.BoundObjectReference
		end  func(t *testing.T, r *rig) error
		want string // "" when the token stays valid
	}{
		{"its pod is deleted", boundTo("Pod", "web"), func(t *testing.T, r *rig) error {
			return r.client.CoreV1().Pods("a").Delete(t.Context(), "web", metav1.DeleteOptions{})
		}, "pod web: it does not exist"},
		{"its pod is made again", boundTo("Pod", "web"), func(t *testing.T, r *rig) error {
			_, err := r.client.CoreV1().Pods("a").Update(t.Context(), &corev1.Pod{ObjectMeta: named("a", "web", "pod-2")}, metav1.UpdateOptions{})
			return err
		}, "made again"},
		{"its pod began to terminate just now", boundTo("Pod", "web"), func(t *testing.T, r *rig) error {
			pod := &corev1.Pod{ObjectMeta: named("a", "web", "pod-1")}
			pod.DeletionTimestamp, pod.Finalizers = ptr.To(metav1.NewTime(now.Add(-30*time.Second))), []string{"x/y"}
			_, err := r.client.CoreV1().Pods("a").Update(t.Context(), pod, metav1.UpdateOptions{})
			return err
		}, ""},
		{"its pod should be gone for two minutes", boundTo("Pod", "web"), func(t *testing.T, r *rig) error {
			pod := &corev1.Pod{ObjectMeta: named("a", "web", "pod-1")}
			pod.DeletionTimestamp, pod.Finalizers = ptr.To(metav1.NewTime(now.Add(-2*time.Minute))), []string{"x/y"}
			_, err := r.client.CoreV1().Pods("a").Update(t.Context(), pod, metav1.UpdateOptions{})
			return err
		}, "has been deleted"},
		{"its pod's node is deleted", boundTo("Pod", "web"), func(t *testing.T, r *rig) error {
			return r.client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{})
		}, ""},
		{"its node is deleted", boundTo("Node", "n1"), func(t *testing.T, r *rig) error {
			return r.client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{})
		}, "node n1: it does not exist"},
		{"its secret is deleted", boundTo("Secret", "keep"), func(t *testing.T, r *rig) error {
			return r.client.CoreV1().Secrets("a").Delete(t.Context(), "keep", metav1.DeleteOptions{})
		}, "secret keep: it does not exist"},
		{"its service account is deleted", nil, func(t *testing.T, r *rig) error {
			return r.client.CoreV1().ServiceAccounts("a").Delete(t.Context(), "bot", metav1.DeleteOptions{})
		}, "service account bot: it does not exist"},
		{"its service account is made again", nil, func(t *testing.T, r *rig) error {
			_, err := r.client.CoreV1().ServiceAccounts("a").Update(t.Context(), &corev1.ServiceAccount{ObjectMeta: named("a", "bot", "sa-9")}, metav1.UpdateOptions{})
			return err
		}, "made again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			token := r.token(t, authenticationv1.TokenRequestSpec{BoundObjectRef: c.to})
			if err := c.end(t, r); err != nil {
				t.Fatal(err)
			}
			_, ok, err := r.validator.AuthenticateToken(t.Context(), token)
			switch {
			case c.want == "" && (err != nil || !ok):
				t.Errorf("refused: %v", err)
			case c.want != "" && (ok || err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("accepted %v, error %v, want one with %q", ok, err, c.want)
			}
		})
	}
}

// Readers of Kubernetes' tokens expect a list, though RFC 7519, 4.1.3 lets one audience be a string.
func TestOneAudienceIsAList(t *testing.T) {
	token := newRig(t).token(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(body), `"aud":["vault"]`) {
		t.Errorf("claims are %s", body)
	}
}

func TestTimeAndAudience(t *testing.T) {
	for _, c := range []struct {
		name      string
		audiences []string
		after     time.Duration
		wanted    []string
		ok        bool
	}{
		{"the moment it is issued", nil, 0, nil, true},
		{"just before its end", nil, time.Hour - time.Second, nil, true},
		{"two minutes after its end", nil, time.Hour + 2*time.Minute, nil, false},
		{"two minutes before it begins", nil, -2 * time.Minute, nil, false},
		{"for somebody else", []string{"vault"}, 0, nil, false},
		{"for somebody else who asks", []string{"vault"}, 0, []string{"vault"}, true},
		{"for the API server, asked for somebody else", nil, 0, []string{"vault"}, false},
		{"for two of which one asks", []string{"vault", "db"}, 0, []string{"db"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			token := r.token(t, authenticationv1.TokenRequestSpec{Audiences: c.audiences})
			r.clock.SetTime(now.Add(c.after))
			ctx := t.Context()
			if c.wanted != nil {
				ctx = authenticator.WithAudiences(ctx, c.wanted)
			}
			resp, ok, err := r.validator.AuthenticateToken(ctx, token)
			if ok != c.ok || c.ok != (err == nil) {
				t.Fatalf("accepted %v (%v), want %v", ok, err, c.ok)
			}
			if c.ok && c.wanted != nil && !slices.Equal(resp.Audiences, c.wanted) {
				t.Errorf("answered for %q, want %q", resp.Audiences, c.wanted)
			}
		})
	}
}

func segment(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, body any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(body).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// goodClaims are what our issuer would sign for a:bot.
func goodClaims() map[string]any {
	return map[string]any{
		"iss": issuerURL, "sub": "system:serviceaccount:a:bot", "aud": []string{issuerURL}, "exp": now.Add(time.Hour).Unix(), "nbf": now.Unix(), "iat": now.Unix(),
		"kubernetes.io": map[string]any{"namespace": "a", "serviceaccount": map[string]any{"name": "bot", "uid": "sa-1"}},
	}
}

func with(key string, value any) map[string]any {
	c := goodClaims()
	if value == nil {
		delete(c, key)
	} else {
		c[key] = value
	}
	return c
}

func TestForgedTokensAreRefused(t *testing.T) {
	r := newRig(t)
	if _, ok, err := r.validator.AuthenticateToken(t.Context(), sign(t, jose.ES256, ourKey, nil, goodClaims())); !ok {
		t.Fatalf("the claims that the forgeries start from are not good: %v", err)
	}
	der, err := x509.MarshalPKIXPublicKey(ourKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	kid := r.issuer.key.KeyID
	good := r.token(t, authenticationv1.TokenRequestSpec{})
	parts := strings.Split(good, ".")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, token string }{
		{"no signature, algorithm none", segment(t, map[string]any{"alg": "none"}) + "." + segment(t, goodClaims()) + "."},
		{"algorithm NoNe with the old signature", segment(t, map[string]any{"alg": "NoNe"}) + "." + parts[1] + "." + parts[2]},
		{"signature cut off", parts[0] + "." + parts[1] + "."},
		{"signature of another body", parts[0] + "." + segment(t, goodClaims()) + "." + parts[2]},
		{"another key", sign(t, jose.ES256, otherKey, nil, goodClaims())},
		{"another key under our key id", sign(t, jose.ES256, otherKey, map[jose.HeaderKey]any{"kid": kid}, goodClaims())},
		{"another key that brings itself along", sign(t, jose.ES256, otherKey, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: otherKey.Public()}}, goodClaims())},
		{"our public key as HMAC secret", sign(t, jose.HS256, publicPEM, nil, goodClaims())},
		{"our public key's DER as HMAC secret", sign(t, jose.HS256, der, map[jose.HeaderKey]any{"kid": kid}, goodClaims())},
		{"another algorithm", sign(t, jose.RS256, rsaKey, map[jose.HeaderKey]any{"kid": kid}, goodClaims())},
		{"without end", sign(t, jose.ES256, ourKey, nil, with("exp", nil))},
		{"without audience", sign(t, jose.ES256, ourKey, nil, with("aud", nil))},
		{"subject of another account", sign(t, jose.ES256, ourKey, nil, with("sub", "system:serviceaccount:a:other"))},
		{"subject of a person", sign(t, jose.ES256, ourKey, nil, with("sub", "system:masters"))},
		{"without private claims", sign(t, jose.ES256, ourKey, nil, with("kubernetes.io", nil))},
		{"private claims of the wrong type", sign(t, jose.ES256, ourKey, nil, with("kubernetes.io", "a"))},
		{"account without uid", sign(t, jose.ES256, ourKey, nil, with("kubernetes.io", map[string]any{"namespace": "a",
			"serviceaccount": map[string]any{"name": "bot"}}))},
		{"legacy issuer without a secret", sign(t, jose.ES256, ourKey, nil, map[string]any{
			"iss": LegacyIssuer, "sub": "system:serviceaccount:a:bot", "kubernetes.io/serviceaccount/namespace": "a",
			"kubernetes.io/serviceaccount/service-account.name": "bot", "kubernetes.io/serviceaccount/service-account.uid": "sa-1"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, ok, err := r.validator.AuthenticateToken(t.Context(), c.token); ok || err == nil {
				t.Errorf("accepted %v, error %v", ok, err)
			}
		})
	}
	for name, token := range map[string]string{"foreign issuer": sign(t, jose.ES256, ourKey, nil, with("iss", "https://evil")), "not a JWT": "abc",
		"two parts": "a.b",
		"empty":     "", "JSON form": `{"payload":"x"}`, "a megabyte": strings.Repeat("a", 1<<20), "no base64": "!.!.!"} {
		t.Run("left to others: "+name, func(t *testing.T) {
			if _, ok, err := r.validator.AuthenticateToken(t.Context(), token); ok || err != nil {
				t.Errorf("accepted %v, error %v", ok, err)
			}
		})
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		spec authenticationv1.TokenRequestSpec
		is   func(error) bool
	}{
		{"nine minutes", authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](540)}, apierrors.IsInvalid},
		{"longer than 2^32 seconds", authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](1 << 33)}, apierrors.IsInvalid},
		{"negative", authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](-1)}, apierrors.IsInvalid},
		{"empty audience", authenticationv1.TokenRequestSpec{Audiences: []string{""}}, apierrors.IsInvalid},
		{"absent pod", authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "nope")}, apierrors.IsNotFound},
		{"absent secret", authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Secret", "nope")}, apierrors.IsNotFound},
		{"absent node", authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Node", "nope")}, apierrors.IsNotFound},
		{"a kind that does not bind", authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("ConfigMap", "x")}, apierrors.IsBadRequest},
		{"another pod of that name", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: "web", UID: "pod-0"}}, apierrors.IsConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := newRig(t).request(t, c.spec); !c.is(err) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("a pod of another service account", func(t *testing.T) {
		r := newRig(t)
		_, err := r.rest.Create(genericapirequest.WithNamespace(t.Context(), "a"), "other",
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "web")}}, nil, nil)
		if !apierrors.IsBadRequest(err) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("an absent service account", func(t *testing.T) {
		_, err := newRig(t).rest.Create(genericapirequest.WithNamespace(t.Context(), "b"), "bot", &authenticationv1.TokenRequest{}, nil, nil)
		if !apierrors.IsNotFound(err) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("admission says no", func(t *testing.T) {
		no := apierrors.NewForbidden(corev1.Resource("serviceaccounts"), "bot", nil)
		_, err := newRig(t).rest.Create(genericapirequest.WithNamespace(t.Context(), "a"), "bot", &authenticationv1.TokenRequest{},
			func(context.Context, runtime.Object) error { return no }, nil)
		if err != error(no) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAPodsTokenIsExtended(t *testing.T) {
	r := newRig(t)
	spec := authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "web"), ExpirationSeconds: ptr.To[int64](3607)}
	tr, err := r.request(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := tr.Status.ExpirationTimestamp.Sub(now); got != 3607*time.Second {
		t.Errorf("the answer says it ends after %v: the kubelet would not refresh it in time", got)
	}
	r.clock.SetTime(now.Add(300 * 24 * time.Hour))
	if _, ok, err := r.validator.AuthenticateToken(t.Context(), tr.Status.Token); !ok {
		t.Errorf("an old client that never reads the token again is cut off: %v", err)
	}
	r.clock.SetTime(now)
	spec.Audiences = []string{"vault"}
	foreign := r.token(t, spec)
	r.clock.SetTime(now.Add(2 * time.Hour))
	if _, ok, _ := r.validator.AuthenticateToken(authenticator.WithAudiences(t.Context(), []string{"vault"}), foreign); ok {
		t.Error("a token for somebody else was extended")
	}
}

func TestLegacyTokens(t *testing.T) {
	r := newRig(t)
	sa := &corev1.ServiceAccount{ObjectMeta: named("a", "bot", "sa-1")}
	secret := &corev1.Secret{ObjectMeta: named("a", "bot-token", "secret-2"), Type: corev1.SecretTypeServiceAccountToken}
	token, err := r.issuer.IssueLegacy(sa, secret)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, s *corev1.Secret, want bool) {
		t.Helper()
		var err error
		if s == nil {
			err = r.client.CoreV1().Secrets("a").Delete(t.Context(), "bot-token", metav1.DeleteOptions{})
		} else if _, err = r.client.CoreV1().Secrets("a").Update(t.Context(), s, metav1.UpdateOptions{}); apierrors.IsNotFound(err) {
			_, err = r.client.CoreV1().Secrets("a").Create(t.Context(), s, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ok, err := r.validator.AuthenticateToken(t.Context(), token); ok != want || (err == nil) != want {
			t.Errorf("%s: accepted %v (%v), want %v", name, ok, err, want)
		}
	}
	secret.Data = map[string][]byte{"token": []byte(token)}
	check("the secret holds it", secret, true)
	invalid := secret.DeepCopy()
	invalid.Labels = map[string]string{legacyInvalidSince: "2026-01-01"}
	check("the cleaner marked it", invalid, false)
	changed := secret.DeepCopy()
	changed.Data["token"] = []byte("another")
	check("the secret holds another", changed, false)
	check("the secret is gone", nil, false)
}

func TestDiscovery(t *testing.T) {
	d, err := NewDiscovery(issuerURL, "", "192.0.2.1:6443", []crypto.PublicKey{ourKey.Public(), otherKey.Public()})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Install(mux)
	get := func(path string, into any) http.Header {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
		return w.Header()
	}
	var doc map[string]any
	if got := get(DiscoveryPath, &doc).Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %s", got)
	}
	if doc["issuer"] != issuerURL || doc["jwks_uri"] != "https://192.0.2.1:6443/openid/v1/jwks" {
		t.Errorf("document %v", doc)
	}
	var keys jose.JSONWebKeySet
	get(KeysPath, &keys)
	if len(keys.Keys) != 2 {
		t.Fatalf("%d keys", len(keys.Keys))
	}
	for _, k := range keys.Keys {
		if !k.IsPublic() || k.Use != "sig" || k.Algorithm != "ES256" {
			t.Errorf("key %+v", k)
		}
	}
	// A stranger who knows only the two documents can check a token.
	token := newRig(t).token(t, authenticationv1.TokenRequestSpec{})
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var c jwt.Claims
	if err := parsed.Claims(keys.Key(parsed.Headers[0].KeyID)[0], &c); err != nil || c.Issuer != issuerURL {
		t.Errorf("claims %+v: %v", c, err)
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodPost, KeysPath, nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST answered %d", w.Code)
	}
	if _, err := NewDiscovery("kubernetes/serviceaccount", "", "x:1", nil); err == nil {
		t.Error("an issuer that is no https URL was accepted")
	}
}

func TestBootstrapTokens(t *testing.T) {
	client := fake.NewClientset()
	auth := &BootstrapAuthenticator{Clock: clocktesting.NewFakePassiveClock(now), Secret: func(ctx context.Context, name string) (*corev1.Secret, error) {
		return client.CoreV1().Secrets("kube-system").Get(ctx, name, metav1.GetOptions{})
	}}
	made, err := CreateBootstrap(t.Context(), client, Bootstrap{Description: "for node 2", Expires: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	resp, ok, err := auth.AuthenticateToken(t.Context(), made.String())
	if err != nil || !ok {
		t.Fatalf("refused: %v", err)
	}
	if resp.User.GetName() != "system:bootstrap:"+made.ID || !slices.Equal(resp.User.GetGroups(), []string{"system:bootstrappers", BootstrapGroup}) {
		t.Errorf("user %+v", resp.User)
	}
	signing, err := CreateBootstrap(t.Context(), client, Bootstrap{ID: "signer", Usages: []string{"signing"}})
	if err != nil {
		t.Fatal(err)
	}
	expired, err := CreateBootstrap(t.Context(), client, Bootstrap{ID: "expird", Expires: now.Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"wrong secret": made.ID + ".0123456789abcdef", "unknown id": "abcdef.0123456789abcdef",
		"only for signing": signing.String(), "expired": expired.String()} {
		if _, ok, err := auth.AuthenticateToken(t.Context(), token); ok || err == nil {
			t.Errorf("%s: accepted %v, error %v", name, ok, err)
		}
	}
	for _, token := range []string{"", "abc", made.String() + "x", "ABCDEF.0123456789abcdef", "a.b.c", "../../x.0123456789abcdef"} {
		if _, ok, err := auth.AuthenticateToken(t.Context(), token); ok || err != nil {
			t.Errorf("%q: accepted %v, error %v; want it left to others", token, ok, err)
		}
	}
	list, err := ListBootstrap(t.Context(), client)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d tokens: %v", len(list), err)
	}
	if i := slices.IndexFunc(list, func(b Bootstrap) bool { return b.ID == made.ID }); i < 0 || !list[i].Expires.Equal(made.Expires) || list[i].Description != "for node 2" {
		t.Errorf("list %+v", list)
	}
	if err := DeleteBootstrap(t.Context(), client, made.String()); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := auth.AuthenticateToken(t.Context(), made.String()); ok {
		t.Error("a deleted token is accepted")
	}
	for _, b := range []Bootstrap{{ID: "UPPERX"}, {Secret: "short"}, {Usages: []string{"everything"}}, {Groups: []string{"system:masters"}}} {
		if _, err := CreateBootstrap(t.Context(), client, b); err == nil {
			t.Errorf("%+v was accepted", b)
		}
	}
	if err := DeleteBootstrap(t.Context(), client, "../x"); err == nil {
		t.Error("a path was accepted as id")
	}
}

func FuzzAuthenticateToken(f *testing.F) {
	r := newRig(f)
	good := r.token(f, authenticationv1.TokenRequestSpec{})
	f.Add(good)
	f.Add(sign(f, jose.ES256, otherKey, nil, goodClaims()))
	f.Add(segment(f, map[string]any{"alg": "none"}) + "." + segment(f, goodClaims()) + ".")
	f.Add("..")
	f.Add("e30.e30.e30")
	f.Fuzz(func(t *testing.T, token string) {
		if _, ok, _ := r.validator.AuthenticateToken(t.Context(), token); ok {
			// Only a token that our key signed may pass, whatever its spelling.
			parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
			if err != nil {
				t.Fatalf("accepted what is no JWS: %q", token)
			}
			want, err := jose.ParseSignedCompact(good, []jose.SignatureAlgorithm{jose.ES256})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(parsed.UnsafePayloadWithoutVerification(), want.UnsafePayloadWithoutVerification()) {
				t.Fatalf("accepted a forged body in %q", token)
			}
		}
	})
}
