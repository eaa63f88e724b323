// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// writeFile writes text into a new file of its own directory and returns its path.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// bearer returns a configuration that comes with token and nothing else.
func bearer(env Env, token string) *rest.Config {
	return &rest.Config{Host: env.URL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: env.Keys.CAFile()}, QPS: -1}
}

// bearerKubectl returns a kubectl whose kubeconfig holds token.
func bearerKubectl(t *testing.T, env Env, token string) kubectl {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: env.URL, CertificateAuthority: env.Keys.CAFile()}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(bearer(env, token))
	if err != nil {
		t.Fatal(err)
	}
	return kubectl{t: t, kubeconfig: path, cache: t.TempDir(), transport: transport}
}

// whoAmI returns who the server takes the bearer of token for.
func whoAmI(t *testing.T, env Env, token string) (authenticationv1.UserInfo, error) {
	t.Helper()
	r, err := kubernetes.NewForConfigOrDie(bearer(env, token)).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return r.Status.UserInfo, nil
}

// TestOpenIDConnect lets people in by a real provider in a process of its own: its discovery, its login, its tokens, its keys as they change; who they
// are is what the CEL expressions of an AuthenticationConfiguration say, what they may is RBAC's matter, and kubectl is their client.
func TestOpenIDConnect(t *testing.T) {
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(failed{message, code}) })
	defer cmdutil.DefaultBehaviorOnFatal()
	p := startProvider(t)
	file := writeFile(t, "authentication.yaml", fmt.Sprintf(`
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: %s
    audiences: [someone-else, %s]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
%s
  claimValidationRules:
  - expression: claims.exp - claims.iat <= 86400
    message: tokens live a day at most
  claimMappings:
    username: {expression: 'claims.email_verified ? "oidc:" + claims.email : ""'}
    groups: {expression: 'dyn(claims.roles).map(r, "oidc:" + r)'}
    uid: {expression: claims.sub}
    extra:
    - {key: example.com/team, valueExpression: claims.team.name}
  userValidationRules:
  - {expression: '!user.username.startsWith("system:")', message: reserved}
`, p.URL, clientID, indent(p.CA, "      ")))
	env, stop := startConfig(t, Config{DataDir: shortDir(t), AuthenticationConfig: file})
	defer stop()
	admin := client(t, env.AdminKubeconfig)
	_, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "look"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"configmaps", "pods"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "ops"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "oidc:ops"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "look"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	token := p.login(t, "ann")
	until(t, "ann comes in", func(int) bool { who, err := whoAmI(t, env, token); return err == nil && who.Username != "" })
	who, err := whoAmI(t, env, token)
	want := authenticationv1.UserInfo{Username: "oidc:ann@example.com", UID: "id-ann", Groups: []string{"oidc:ops", "oidc:on-call", "system:authenticated"}}
	if team := who.Extra["example.com/team"]; len(team) != 1 || team[0] != "harbour" {
		t.Errorf("extra is %v, want the team of the claim", who.Extra)
	}
	if who.Extra = nil; err != nil || !reflect.DeepEqual(who, want) {
		t.Errorf("ann is %+v, %v; want %+v", who, err, want)
	}
	k := bearerKubectl(t, env, token)
	k.must("", "oidc:ann@example.com", "auth", "whoami")
	k.must("", "configmap/extension-apiserver-authentication", "get", "configmaps", "--all-namespaces", "-o", "name")
	k.must("", "yes", "auth", "can-i", "list", "pods")
	if _, err := k.run("", "create", "configmap", "mine"); err == nil || !strings.Contains(err.Error(), `User "oidc:ann@example.com" cannot create`) {
		t.Errorf("kubectl create configmap as a viewer: %v, want Forbidden", err)
	}

	if who, err := whoAmI(t, env, p.login(t, "mallory")); !apierrors.IsUnauthorized(err) {
		t.Errorf("somebody with another's address, not verified, came in as %q (%v)", who.Username, err)
	}
	if who, err := whoAmI(t, env, token[:len(token)-8]+"AAAAAAAA"); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token with another signature came in as %q (%v)", who.Username, err)
	}

	p.rotate(t)
	fresh := p.login(t, "ann")
	until(t, "a token under the provider's new key is accepted", func(int) bool { _, err := whoAmI(t, env, fresh); return err == nil })
	until(t, "a token under the key that left the key set is refused", func(int) bool { _, err := whoAmI(t, env, token); return apierrors.IsUnauthorized(err) })

	// The provider's death cuts nobody off: its keys are known.
	p.kill()
	until(t, "the cached answer is forgotten and the token still accepted", func(i int) bool { _, err := whoAmI(t, env, fresh); return err == nil && i > 0 })
	if _, err := admin.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the administrator without the provider: %v", err)
	}
}

// webhook answers TokenReviews and SubjectAccessReviews.
type webhook struct {
	*httptest.Server
	tokens, accesses atomic.Int64
	asked            atomic.Pointer[authorizationv1.SubjectAccessReviewSpec]
}

func newWebhook(t *testing.T) *webhook {
	t.Helper()
	w := &webhook{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", answer(t, func(r *authenticationv1.TokenReview) {
		w.tokens.Add(1)
		if r.Spec.Token == "opensesame" {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: r.Spec.Audiences, User: authenticationv1.UserInfo{
				Username: "ali", UID: "40", Groups: []string{"thieves"}, Extra: map[string]authenticationv1.ExtraValue{"example.com/cave": {"yes"}}}}
		}
	}))
	mux.HandleFunc("POST /access", answer(t, func(r *authorizationv1.SubjectAccessReview) {
		w.accesses.Add(1)
		w.asked.Store(r.Spec.DeepCopy())
		a := r.Spec.ResourceAttributes
		r.Status.Allowed = a != nil && a.Resource == "configmaps" && a.Verb == "list"
		r.Status.Denied = a != nil && a.Resource == "secrets"
		if r.Status.Denied {
			r.Status.Reason = "secrets stay in the cave"
		}
	}))
	w.Server = httptest.NewTLSServer(mux)
	t.Cleanup(w.Close)
	return w
}

func answer[T any](t *testing.T, decide func(*T)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var review T
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		decide(&review)
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}
}

// kubeconfig is the standard way to name a webhook.
func (w *webhook) kubeconfig(t *testing.T, path string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})
	config.Clusters["hook"] = &clientcmdapi.Cluster{Server: w.URL + path, CertificateAuthorityData: ca}
	config.AuthInfos["server"] = &clientcmdapi.AuthInfo{}
	config.Contexts["hook"] = &clientcmdapi.Context{Cluster: "hook", AuthInfo: "server"}
	config.CurrentContext = "hook"
	file := filepath.Join(t.TempDir(), "hook.kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestWebhooksDecide lets one server of somebody else say who a token's bearer is, and another what he may, by Kubernetes' own files. The
// authorization webhook is asked before RBAC, and only about what its match conditions name.
func TestWebhooksDecide(t *testing.T) {
	hook := newWebhook(t)
	authorization := writeFile(t, "authorization.yaml", fmt.Sprintf(`
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: cave
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    authorizedTTL: 1s
    unauthorizedTTL: 1s
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %s}
    matchConditions:
    - expression: has(request.resourceAttributes)
    - expression: "'thieves' in request.groups"
- {type: Node, name: node}
- {type: RBAC, name: rbac}
`, hook.kubeconfig(t, "/access")))
	env, stop := startConfig(t, Config{DataDir: shortDir(t), AuthorizationConfig: authorization, TokenWebhook: TokenWebhook{ConfigFile: hook.kubeconfig(t, "/token")},
		TokenAuthFile: writeFile(t, "tokens.csv", "letmein,bea,7,\"guests\"\n")})
	defer stop()
	if n := hook.accesses.Load(); n != 0 {
		t.Errorf("the authorization webhook was asked %d times about others than its match conditions name", n)
	}
	who, err := whoAmI(t, env, "opensesame")
	if err != nil || who.Username != "ali" || who.UID != "40" || len(who.Extra["example.com/cave"]) != 1 {
		t.Errorf("the token webhook's user is %+v, %v", who, err)
	}
	if who, err := whoAmI(t, env, "letmein"); err != nil || who.Username != "bea" {
		t.Errorf("the token file's user is %+v, %v", who, err)
	}
	if _, err := whoAmI(t, env, "openwheat"); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token that nobody knows: %v, want Unauthorized", err)
	}
	if n := hook.tokens.Load(); n == 0 {
		t.Error("the token webhook was never asked")
	}

	ali := kubernetes.NewForConfigOrDie(bearer(env, "opensesame"))
	if _, err := ali.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: "gold=yes"}); err != nil {
		t.Errorf("a list that the webhook allows: %v", err)
	}
	if a := hook.asked.Load(); a == nil || a.ResourceAttributes.LabelSelector == nil || len(a.ResourceAttributes.LabelSelector.Requirements) != 1 || a.UID != "40" {
		t.Errorf("the webhook was asked %+v, want user, UID and label selector of the request", a)
	}
	_, err = ali.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "secrets stay in the cave") {
		t.Errorf("what the webhook denies: %v, want Forbidden with its reason", err)
	}
	before := hook.accesses.Load()
	if _, err := kubernetes.NewForConfigOrDie(bearer(env, "letmein")).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("somebody whom RBAC allows nothing: %v, want Forbidden", err)
	}
	if n := hook.accesses.Load(); n != before {
		t.Error("the webhook was asked about somebody whom its match conditions leave out")
	}
	hook.Close()
	until(t, "without the webhook its failure policy denies", func(int) bool {
		_, err := ali.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "connection refused") || apierrors.IsForbidden(err)
	})
}
