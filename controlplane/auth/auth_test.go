// SPDX-License-Identifier: Apache-2.0

package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/auth/tokens"
	"github.com/fairlead/fairlead/controlplane/server"
)

// cluster is one control plane for all tests of the package.
type cluster struct {
	admin kubernetes.Interface
	base  *rest.Config // the administrator's
	env   server.Env
	dir   string
}

var shared *cluster

func TestMain(m *testing.M) {
	os.Exit(func() int {
		ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.Background()))
		defer cancel()
		dir, err := os.MkdirTemp("", "auth") // short: unix sockets live in it
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		ready, done := make(chan server.Env, 1), make(chan error, 1)
		go func() {
			done <- server.Run(ctx, server.Config{DataDir: dir, BindAddress: "127.0.0.1", Port: -1, AdvertiseAddresses: []string{"192.0.2.1"},
				OnReady: func(e server.Env) { ready <- e }})
		}()
		var env server.Env
		select {
		case env = <-ready:
		case err := <-done:
			fmt.Fprintln(os.Stderr, "control plane ended:", err)
			return 1
		case <-time.After(2 * time.Minute):
			fmt.Fprintln(os.Stderr, "control plane not ready within two minutes")
			return 1
		}
		cfg, err := clientcmd.BuildConfigFromFlags("", env.AdminKubeconfig)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cfg.QPS = -1
		shared = &cluster{admin: kubernetes.NewForConfigOrDie(cfg), base: cfg, env: env, dir: dir}
		code := m.Run()
		cancel()
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "control plane:", err)
			return 1
		}
		return code
	}())
}

// as returns a client that impersonates.
func as(user string, groups ...string) kubernetes.Interface {
	cfg := rest.CopyConfig(shared.base)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	return kubernetes.NewForConfigOrDie(cfg)
}

// bearer returns a client with no credential but token.
func bearer(token string) *kubernetes.Clientset {
	cfg := rest.AnonymousClientConfig(shared.base)
	cfg.BearerToken = token
	return kubernetes.NewForConfigOrDie(cfg)
}

// namespace makes a namespace with its default service account, as the controllers do, which do not run here.
func namespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	ns, err := shared.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-", Labels: labels}},
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.admin.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/x"}}}}
}

// eventually waits for what informers bring.
func eventually(t *testing.T, what string, f func() (bool, error)) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		var ok bool
		ok, last = f()
		return ok, nil
	})
	if err != nil {
		t.Fatalf("%s: %v (last: %v)", what, err, last)
	}
}

func forbidden(t *testing.T, err error, part string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want Forbidden with %q", err, part)
	}
}

func TestServiceAccountToken(t *testing.T) {
	ns, ctx := namespace(t, nil), t.Context()
	p, err := shared.admin.CoreV1().Pods(ns).Create(ctx, pod("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := shared.admin.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	who, err := bearer(tr.Status.Token).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u := who.Status.UserInfo
	if u.Username != "system:serviceaccount:"+ns+":default" || !slices.Equal(u.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:" + ns,
		"system:authenticated"}) {
		t.Errorf("user %+v", u)
	}
	if got := u.Extra["authentication.kubernetes.io/pod-name"]; !slices.Equal(got, []string{"web"}) {
		t.Errorf("pod name %q", got)
	}
	_, err = bearer(tr.Status.Token).CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	forbidden(t, err, `User "system:serviceaccount:`+ns+`:default" cannot list resource "secrets"`)

	review, err := shared.admin.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: tr.Status.Token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != u.Username {
		t.Errorf("TokenReview: %+v, %v", review, err)
	}
	other, err := shared.admin.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bearer(other.Status.Token).Discovery().ServerGroups(); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for another audience: %v, want Unauthorized", err)
	}
	if err := shared.admin.CoreV1().Pods(ns).Delete(ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token ends with its pod", func() (bool, error) {
		_, err := bearer(tr.Status.Token).Discovery().ServerGroups()
		return apierrors.IsUnauthorized(err), err
	})
}

func TestDiscoveryOfTheIssuer(t *testing.T) {
	ns := namespace(t, nil)
	tr, err := shared.admin.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{tokens.DiscoveryPath: `"id_token_signing_alg_values_supported":["ES256"]`, tokens.KeysPath: `"use":"sig"`} {
		body, err := bearer(tr.Status.Token).RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %v", path, body, err)
		}
		if _, err := bearer("").RESTClient().Get().AbsPath(path).DoRaw(t.Context()); !apierrors.IsForbidden(err) {
			t.Errorf("%s without credential: %v, want Forbidden", path, err)
		}
	}
}

func TestForgedAndForeignCredentials(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := tokens.NewIssuer("https://kubernetes.default.svc.cluster.local", key)
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "clusterrole-aggregation-controller", UID: "x"}}
	forged, _, err := foreign.Issue(tokens.Bound{ServiceAccount: account, Audiences: []string{"https://kubernetes.default.svc.cluster.local"},
		NotBefore: time.Now(), Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"forged": forged, "garbage": "abc", "bootstrap form": "abcdef.0123456789abcdef",
		"a megabyte": strings.Repeat("x", 900<<10)} {
		_, err := bearer(token).Discovery().ServerVersion()
		var status *apierrors.StatusError
		if !apierrors.IsUnauthorized(err) && !strings.Contains(fmt.Sprint(err), "431") && !strings.Contains(fmt.Sprint(err), "Request Header Fields Too Large") {
			t.Errorf("%s token: %v (%T), want Unauthorized", name, err, status)
		}
	}
	// A client certificate that nobody, or nobody in time, signed.
	certificate := func(parent *x509.Certificate, parentKey *ecdsa.PrivateKey, end time.Time) tls.Certificate {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
			NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			KeyUsage: x509.KeyUsageDigitalSignature}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	caKeyPEM, err := shared.env.Keys.CA().KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(caKeyPEM)
	caKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	ca := shared.env.Keys.CA().Cert
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for name, c := range map[string]struct {
		cert tls.Certificate
		want int
	}{
		"self-signed as system:masters": {certificate(nil, nil, time.Now().Add(time.Hour)), http.StatusUnauthorized},
		"expired":                       {certificate(ca, caKey.(*ecdsa.PrivateKey), time.Now().Add(-time.Hour)), http.StatusUnauthorized},
		"of the cluster":                {certificate(ca, caKey.(*ecdsa.PrivateKey), time.Now().Add(time.Hour)), http.StatusOK},
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, // sent even when the server announces other authorities
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.cert, nil }}}}
		resp, err := client.Get(shared.base.Host + "/api/v1/nodes")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("certificate %s: %d %s, want %d", name, resp.StatusCode, body, c.want)
		}
		var status metav1.Status
		if c.want == http.StatusUnauthorized && (json.Unmarshal(body, &status) != nil || status.Reason != metav1.StatusReasonUnauthorized) {
			t.Errorf("certificate %s: body %s is no Status", name, body)
		}
	}
	// Headers of a front proxy without its certificate.
	req, err := http.NewRequest(http.MethodGet, shared.base.Host+"/api/v1/nodes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Remote-User", "admin")
	req.Header.Set("X-Remote-Group", "system:masters")
	resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("front-proxy headers from anybody: %d, want 403 as anonymous", resp.StatusCode)
	}
}

func TestBootstrapTokenJoins(t *testing.T) {
	ctx := t.Context()
	made, err := tokens.CreateBootstrap(ctx, shared.admin, tokens.Bootstrap{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	joining := bearer(made.String())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n9",
		Organization: []string{"system:nodes"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "n9-"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
	}}
	var created *certificatesv1.CertificateSigningRequest
	eventually(t, "the joining node asks for a certificate", func() (bool, error) {
		var err error
		created, err = joining.CertificatesV1().CertificateSigningRequests().Create(ctx, csr, metav1.CreateOptions{})
		return err == nil, err
	})
	if created.Spec.Username != "system:bootstrap:"+made.ID || !slices.Contains(created.Spec.Groups, tokens.BootstrapGroup) {
		t.Errorf("request of %s in %q", created.Spec.Username, created.Spec.Groups)
	}
	created.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue,
		Reason: "x"}}
	_, err = joining.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, created.Name, created, metav1.UpdateOptions{})
	forbidden(t, err, "certificatesigningrequests/approval")
	_, err = joining.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
	forbidden(t, err, "secrets")
	if err := tokens.DeleteBootstrap(ctx, shared.admin, made.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a deleted token is refused", func() (bool, error) {
		_, err := joining.Discovery().ServerVersion()
		return apierrors.IsUnauthorized(err), err
	})
}

func TestRoleLimitedUser(t *testing.T) {
	ns, ctx := namespace(t, nil), t.Context()
	rbac := shared.admin.RbacV1()
	if _, err := rbac.Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "editor"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
		{Verbs: []string{"create", "update"}, APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"roles", "rolebindings"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rbac.RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "ann"},
		Subjects: []rbacv1.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "User", Name: "ann"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "editor"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ann := as("ann")
	eventually(t, "ann reads her namespace", func() (bool, error) {
		_, err := ann.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		return err == nil, err
	})
	_, err := ann.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	forbidden(t, err, `in the namespace "default"`)
	_, err = ann.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
	forbidden(t, err, "at the cluster scope")
	role := func(verb string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "r-"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{""},
			Resources: []string{"configmaps"}}}}
	}
	if _, err := ann.RbacV1().Roles(ns).Create(ctx, role("get"), metav1.CreateOptions{}); err != nil {
		t.Errorf("a role with what she has: %v", err)
	}
	_, err = ann.RbacV1().Roles(ns).Create(ctx, role("delete"), metav1.CreateOptions{})
	forbidden(t, err, "not currently held")
	_, err = ann.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "root"},
		Subjects: []rbacv1.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "User", Name: "ann"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"}}, metav1.CreateOptions{})
	forbidden(t, err, "not currently held")

	can, err := ann.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "configmaps"}}}, metav1.CreateOptions{})
	if err != nil || !can.Status.Allowed || !strings.Contains(can.Status.Reason, `Role "editor"`) {
		t.Errorf("auth can-i list configmaps: %+v, %v", can.Status, err)
	}
	rules, err := ann.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx,
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}, metav1.CreateOptions{})
	if err != nil || !slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
		return slices.Contains(r.Resources,
			"configmaps")
	}) {
		t.Errorf("auth can-i --list: %+v, %v", rules.Status, err)
	}
	// Impersonation is a right too.
	cfg := rest.CopyConfig(shared.base)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "ann", Groups: []string{"system:authenticated"}}
	token, err := shared.admin.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sa := rest.AnonymousClientConfig(shared.base)
	sa.BearerToken, sa.Impersonate = token.Status.Token, rest.ImpersonationConfig{UserName: "admin", Groups: []string{"system:masters"}}
	_, err = kubernetes.NewForConfigOrDie(sa).CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
	forbidden(t, err, "cannot impersonate")
}

func TestNodeSeesOnlyWhatItsPodsUse(t *testing.T) {
	ns, ctx := namespace(t, nil), t.Context()
	for _, n := range []string{"used", "unused"} {
		if _, err := shared.admin.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	node := as("system:node:n1", "system:nodes")
	created, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(created.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady }) {
		t.Errorf("taints %v: a new node is schedulable at once", created.Spec.Taints)
	}
	_, err = node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, metav1.CreateOptions{})
	forbidden(t, err, "not allowed to modify node")
	created.Labels = map[string]string{"node-restriction.kubernetes.io/zone": "secret"}
	_, err = node.CoreV1().Nodes().Update(ctx, created, metav1.UpdateOptions{})
	forbidden(t, err, "not allowed to modify labels")

	p := pod("web")
	p.Spec.NodeName = "n1"
	p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "used"}}}}
	bound, err := shared.admin.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node reads the secret of its pod", func() (bool, error) {
		_, err := node.CoreV1().Secrets(ns).Get(ctx, "used", metav1.GetOptions{})
		return err == nil, err
	})
	_, err = node.CoreV1().Secrets(ns).Get(ctx, "unused", metav1.GetOptions{})
	forbidden(t, err, "no relationship found")
	_, err = node.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	forbidden(t, err, "secrets")
	_, err = as("system:node:n2", "system:nodes").CoreV1().Secrets(ns).Get(ctx, "used", metav1.GetOptions{})
	forbidden(t, err, "no relationship found")
	_, err = node.CoreV1().Pods(ns).Create(ctx, pod("own"), metav1.CreateOptions{})
	forbidden(t, err, "mirror")
	request := func(c kubernetes.Interface, spec authenticationv1.TokenRequestSpec) error {
		_, err := c.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		return err
	}
	to := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: bound.UID}
	if err := request(node, authenticationv1.TokenRequestSpec{BoundObjectRef: to}); err != nil {
		t.Errorf("the node gets no token for its pod: %v", err)
	}
	forbidden(t, request(node, authenticationv1.TokenRequestSpec{}), "not bound to a pod")
	forbidden(t, request(node, authenticationv1.TokenRequestSpec{BoundObjectRef: to, Audiences: []string{"vault"}}), "audience")
	forbidden(t, request(as("system:node:n2", "system:nodes"), authenticationv1.TokenRequestSpec{BoundObjectRef: to}), "")
}

func TestPodDefaults(t *testing.T) {
	ns, ctx := namespace(t, nil), t.Context()
	p, err := shared.admin.CoreV1().Pods(ns).Create(ctx, pod("p"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Spec.ServiceAccountName != "default" || p.Spec.Priority == nil || len(p.Spec.Tolerations) != 2 {
		t.Errorf("service account %q, priority %v, tolerations %v", p.Spec.ServiceAccountName, p.Spec.Priority, p.Spec.Tolerations)
	}
	if len(p.Spec.Volumes) != 1 || p.Spec.Volumes[0].Projected == nil || len(p.Spec.Containers[0].VolumeMounts) != 1 ||
		p.Spec.Containers[0].VolumeMounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("volumes %v, mounts %v", p.Spec.Volumes, p.Spec.Containers[0].VolumeMounts)
	}
	bad := pod("bad")
	bad.Spec.ServiceAccountName = "nobody"
	_, err = shared.admin.CoreV1().Pods(ns).Create(ctx, bad, metav1.CreateOptions{})
	forbidden(t, err, "error looking up service account")
	bad = pod("bad")
	bad.Spec.PriorityClassName = "nope"
	_, err = shared.admin.CoreV1().Pods(ns).Create(ctx, bad, metav1.CreateOptions{})
	forbidden(t, err, "no PriorityClass with name nope was found")
	if _, err := shared.admin.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"},
		Value: 1000}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	critical := pod("critical")
	critical.Spec.PriorityClassName = "system-node-critical"
	if critical, err = shared.admin.CoreV1().Pods(ns).Create(ctx, critical, metav1.CreateOptions{}); err != nil || *critical.Spec.Priority != 2_000_001_000 {
		t.Errorf("system-node-critical: priority %v, %v", critical.Spec.Priority, err)
	}
	high := pod("high")
	high.Spec.PriorityClassName = "high"
	if high, err = shared.admin.CoreV1().Pods(ns).Create(ctx, high, metav1.CreateOptions{}); err != nil || *high.Spec.Priority != 1000 {
		t.Errorf("priority %v, %v", high.Spec.Priority, err)
	}
}

func TestPodSecurity(t *testing.T) {
	ns, ctx := namespace(t, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}), t.Context()
	_, err := shared.admin.CoreV1().Pods(ns).Create(ctx, pod("p"), metav1.CreateOptions{})
	forbidden(t, err, `violates PodSecurity "restricted:latest"`)
	good := pod("p")
	good.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	good.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	if _, err := shared.admin.CoreV1().Pods(ns).Create(ctx, good, metav1.CreateOptions{}); err != nil {
		t.Errorf("a restricted pod: %v", err)
	}
	_, err = shared.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-",
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "sloppy"}}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("a level that does not exist: %v, want Invalid", err)
	}
}

func TestLimitRange(t *testing.T) {
	ns, ctx := namespace(t, nil), t.Context()
	if _, err := shared.admin.CoreV1().LimitRanges(ns).Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: corev1.ResourceList{"cpu": resource.MustParse("500m")},
			DefaultRequest: corev1.ResourceList{"cpu": resource.MustParse("100m")},
			Max:            corev1.ResourceList{"cpu": resource.MustParse("1")},
		}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var p *corev1.Pod
	eventually(t, "defaults of the range", func() (bool, error) {
		var err error
		p, err = shared.admin.CoreV1().Pods(ns).Create(ctx, pod("p"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && p.Spec.Containers[0].Resources.Requests.Cpu().String() == "100m", err
	})
	if got := p.Spec.Containers[0].Resources.Limits.Cpu().String(); got != "500m" {
		t.Errorf("limit %s", got)
	}
	big := pod("big")
	big.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("2")}
	_, err := shared.admin.CoreV1().Pods(ns).Create(ctx, big, metav1.CreateOptions{})
	forbidden(t, err, "maximum cpu usage per Container is 1, but limit is 2")
}

func TestResourceQuota(t *testing.T) {
	ns, ctx := namespace(t, nil), t.Context()
	hard := corev1.ResourceList{"pods": resource.MustParse("2"), "requests.cpu": resource.MustParse("1"), "services.nodeports": resource.MustParse("1"),
		"count/configmaps": resource.MustParse("1")}
	q, err := shared.admin.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Status.Hard, q.Status.Used = hard, corev1.ResourceList{"pods": resource.MustParse("0"), "requests.cpu": resource.MustParse("0"),
		"services.nodeports": resource.MustParse("0"), "count/configmaps": resource.MustParse("0")}
	if _, err := shared.admin.CoreV1().ResourceQuotas(ns).UpdateStatus(ctx, q, metav1.UpdateOptions{}); err != nil { // the controller's part
		t.Fatal(err)
	}
	eventually(t, "a pod without request is refused", func() (bool, error) {
		_, err := shared.admin.CoreV1().Pods(ns).Create(ctx, pod("p"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "must specify requests.cpu for: c"), err
	})
	asking := func(name, cpu string) *corev1.Pod {
		p := pod(name)
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(cpu)}
		return p
	}
	if _, err := shared.admin.CoreV1().Pods(ns).Create(ctx, asking("a", "700m"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = shared.admin.CoreV1().Pods(ns).Create(ctx, asking("b", "400m"), metav1.CreateOptions{})
	forbidden(t, err, "exceeded quota: q, requested: requests.cpu=400m, used: requests.cpu=700m, limited: requests.cpu=1")
	if _, err := shared.admin.CoreV1().Pods(ns).Create(ctx, asking("b", "100m"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = shared.admin.CoreV1().Pods(ns).Create(ctx, asking("c", "100m"), metav1.CreateOptions{})
	forbidden(t, err, "pods=1")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{
		{Name: "a", Port: 80, TargetPort: intstr.FromInt32(80)}, {Name: "b", Port: 81, TargetPort: intstr.FromInt32(81)}}}}
	_, err = shared.admin.CoreV1().Services(ns).Create(ctx, service, metav1.CreateOptions{})
	forbidden(t, err, "services.nodeports=2")
	if _, err := shared.admin.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}},
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = shared.admin.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{})
	forbidden(t, err, "count/configmaps=1")
	now, err := shared.admin.CoreV1().ResourceQuotas(ns).Get(ctx, "q", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if used := now.Status.Used; used.Pods().Value() != 2 || used.Name("requests.cpu", resource.DecimalSI).MilliValue() != 800 {
		t.Errorf("used %v", used)
	}
}

func TestSigningIsARight(t *testing.T) {
	ctx := t.Context()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(organizations ...string) *certificatesv1.CertificateSigningRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: organizations}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "eve-"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}
	}
	_, err = shared.admin.CertificatesV1().CertificateSigningRequests().Create(ctx, request("system:masters"), metav1.CreateOptions{})
	forbidden(t, err, "system:masters")
	csr, err := shared.admin.CertificatesV1().CertificateSigningRequests().Create(ctx, request("dev"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "csr-writer"},
		Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"update"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/approval",
				"certificatesigningrequests/status"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "csr-writer"},
		Subjects: []rbacv1.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "User", Name: "eve"}},
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "csr-writer"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue,
		Reason: "x"}}
	eventually(t, "eve may write approvals, but not for this signer", func() (bool, error) {
		_, err := as("eve").CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "user not permitted to approve requests"), err
	})
	if csr, err = shared.admin.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: shared.env.Keys.CA().Cert.Raw})
	_, err = as("eve").CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	forbidden(t, err, "user not permitted to sign requests")
}

func TestTokenSecret(t *testing.T) {
	ns, ctx := namespace(t, nil), t.Context()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
		Type: corev1.SecretTypeServiceAccountToken}
	if _, err := shared.admin.CoreV1().Secrets(ns).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the secret is filled", func() (bool, error) {
		var err error
		secret, err = shared.admin.CoreV1().Secrets(ns).Get(ctx, "s", metav1.GetOptions{})
		return err == nil && len(secret.Data["token"]) > 0, err
	})
	if string(secret.Data["namespace"]) != ns || string(secret.Data["ca.crt"]) != string(shared.env.Keys.CA().CertPEM) {
		t.Errorf("namespace %q, ca.crt %q", secret.Data["namespace"], secret.Data["ca.crt"])
	}
	who, err := bearer(string(secret.Data["token"])).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{},
		metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "system:serviceaccount:"+ns+":default" {
		t.Errorf("user %v, %v", who, err)
	}
	if err := shared.admin.CoreV1().ServiceAccounts(ns).Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the secret goes with its account", func() (bool, error) {
		_, err := shared.admin.CoreV1().Secrets(ns).Get(ctx, "s", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}

func TestPolicyTypesAreChecked(t *testing.T) {
	ctx, policies := t.Context(), shared.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "typed"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
				Operations: []admissionregistrationv1.OperationType{"CREATE"}, Rule: admissionregistrationv1.Rule{APIGroups: []string{"apps"},
					APIVersions: []string{"v1"}, Resources: []string{"deployments"}}}}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "object.spec.replicas > 1"}, {Expression: "object.spec.replicas > '1'"},
				{Expression: "object.spec.maxReplicas > 0"}},
		}}
	if _, err := policies.Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the policy is checked", func() (bool, error) {
		var err error
		policy, err = policies.Get(ctx, "typed", metav1.GetOptions{})
		return err == nil && policy.Status.TypeChecking != nil, err
	})
	var fields []string
	for _, w := range policy.Status.TypeChecking.ExpressionWarnings {
		fields = append(fields, w.FieldRef)
	}
	if policy.Status.ObservedGeneration != policy.Generation || !slices.Equal(fields, []string{"spec.validations[1].expression",
		"spec.validations[2].expression"}) {
		t.Errorf("generation %d of %d, warnings %+v", policy.Status.ObservedGeneration, policy.Generation, policy.Status.TypeChecking.ExpressionWarnings)
	}
}
