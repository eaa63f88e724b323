// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
	"github.com/fairlead/fairlead/controlplane/store"
)

// TestExtend runs a server with encryption and audit and extends it by webhooks, policies and an aggregated API server.
func TestExtend(t *testing.T) {
	dir, err := os.MkdirTemp("", "extend")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	encryption := write("encryption.yaml", `
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources: [{resources: [secrets], providers: [{aesgcm: {keys: [{name: one, secret: `+key+`}]}}, {identity: {}}]}]
`)
	policy := write("policy.yaml", "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata, resources: [{group: '', resources: [secrets]}]}, {level: None}]\n")
	audit := filepath.Join(dir, "audit.log")
	var config apiserver.Config
	cfg := apitest.Start(t, apitest.Options{Dir: filepath.Join(dir, "etcd"), Configure: func(c *apiserver.Config) {
		c.EncryptionConfig, c.AuditPolicy, c.AuditLog = encryption, policy, audit
		config = *c
	}})
	client := kubernetes.NewForConfigOrDie(cfg)

	t.Run("secrets are stored encrypted and their use is audited", func(t *testing.T) {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hidden"}, StringData: map[string]string{"password": "correct horse"}}
		if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		etcd, err := store.Dial(t.Context(), store.Config{DataDir: filepath.Join(dir, "etcd")})
		if err != nil {
			t.Fatal(err)
		}
		defer etcd.Close()
		stored, err := etcd.Get(t.Context(), config.Store.Prefix+"/secrets/default/hidden")
		if err != nil || len(stored.Kvs) != 1 {
			t.Fatalf("the store holds %v (%v)", stored, err)
		}
		if v := stored.Kvs[0].Value; !bytes.HasPrefix(v, []byte("k8s:enc:aesgcm:v1:one:")) || bytes.Contains(v, []byte("horse")) {
			t.Errorf("the stored value begins with %.30q", v)
		}
		got, err := client.CoreV1().Secrets("default").Get(t.Context(), "hidden", metav1.GetOptions{})
		if err != nil || string(got.Data["password"]) != "correct horse" {
			t.Errorf("read back %v (%v)", got.Data, err)
		}
		eventually(t, func() error {
			log, err := os.ReadFile(audit)
			if err == nil && !bytes.Contains(log, []byte(`"verb":"create"`)) {
				err = fmt.Errorf("no create in %d bytes", len(log))
			}
			return err
		})
	})
	t.Run("webhooks change and refuse", func(t *testing.T) { testWebhooks(t, client) })
	t.Run("CEL policies refuse", func(t *testing.T) { testPolicy(t, client) })
	t.Run("an aggregated API server", func(t *testing.T) { testAggregation(t, cfg, client) })
}

func testWebhooks(t *testing.T, client kubernetes.Interface) {
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var review admissionv1.AdmissionReview
		if err := json.Unmarshal(body, &review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		switch r.URL.Path {
		case "/mutate":
			review.Response.PatchType = ptr.To(admissionv1.PatchTypeJSONPatch)
			review.Response.Patch = []byte(`[{"op":"add","path":"/data/hooked","value":"yes"}]`)
		case "/validate":
			if strings.Contains(string(review.Request.Object.Raw), "forbidden") {
				review.Response.Allowed = false
				review.Response.Result = &metav1.Status{Message: "not this one"}
			}
		}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
	ns := namespace(t, client, "hooked")
	config := func(path string) admissionregistrationv1.WebhookClientConfig {
		return admissionregistrationv1.WebhookClientConfig{URL: ptr.To(hook.URL + path), CABundle: ca}
	}
	rules := []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"CREATE"},
		Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}}
	none := admissionregistrationv1.SideEffectClassNone
	_, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{Name: "m.example.com", ClientConfig: config("/mutate"), Rules: rules,
			NamespaceSelector: selector, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{Name: "v.example.com", ClientConfig: config("/validate"), Rules: rules,
			NamespaceSelector: selector, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, func() error {
		n++
		made, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("c"+strconv.Itoa(n)), metav1.CreateOptions{})
		if err == nil && made.Data["hooked"] != "yes" {
			err = fmt.Errorf("data is %v", made.Data)
		}
		return err
	})
	eventually(t, func() error {
		n++
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("forbidden-"+strconv.Itoa(n)), metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "not this one") {
			return fmt.Errorf("got %v, want a refusal", err)
		}
		return nil
	})
}

func testPolicy(t *testing.T, client kubernetes.Interface) {
	ns := namespace(t, client, "policed")
	policies := client.AdmissionregistrationV1()
	_, err := policies.ValidatingAdmissionPolicies().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "few-keys"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{Operations: []admissionregistrationv1.OperationType{"CREATE"},
					Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "object.data.size() < 3", Message: "too many keys"}},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = policies.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "few-keys"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "few-keys",
			ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			MatchResources:    &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	many := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "many-"}, Data: map[string]string{"a": "", "b": "", "c": ""}}
	eventually(t, func() error {
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), many, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "too many keys") {
			return fmt.Errorf("got %v, want Invalid with the policy's message", err)
		}
		return nil
	})
	if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("few"), metav1.CreateOptions{}); err != nil {
		t.Errorf("what the policy allows: %v", err)
	}
}

// testAggregation puts an API server of another process behind an APIService.
func testAggregation(t *testing.T, cfg *rest.Config, client kubernetes.Interface) {
	backend := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/apis/wind.example.com/v1":
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"wind.example.com/v1","resources":[{"name":"gusts","singularName":"gust","namespaced":false,"kind":"Gust","verbs":["get"]}]}`)
		case "/apis/wind.example.com/v1/gusts/now":
			fmt.Fprintf(w, `{"kind":"Gust","apiVersion":"wind.example.com/v1","metadata":{"name":"now"},"speed":9}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
		}
	}))
	defer backend.Close()
	u, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, portText, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	// Endpoints on loopback are refused, for good reason; a Service that is another name for this host is the way here.
	_, err = client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "wind"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost", Ports: []corev1.ServicePort{{Port: int32(port)}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	aggregator := aggregatorclient.NewForConfigOrDie(cfg)
	_, err = aggregator.ApiregistrationV1().APIServices().Create(t.Context(), &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.wind.example.com"},
		Spec: apiregistrationv1.APIServiceSpec{Group: "wind.example.com", Version: "v1", GroupPriorityMinimum: 1000, VersionPriority: 10, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "wind", Port: ptr.To(int32(port))}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	eventually(t, func() error {
		code, _, data := raw(t, cfg, "GET", "/apis/wind.example.com/v1/gusts/now", "", "", nil)
		if code != http.StatusOK || !bytes.Contains(data, []byte(`"speed":9`)) {
			return fmt.Errorf("answered %d %s", code, data)
		}
		return nil
	})
	t.Logf("served through the aggregator after %s", time.Since(started))
	eventually(t, func() error {
		_, _, data := raw(t, cfg, "GET", "/apis", "", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", nil)
		if !bytes.Contains(data, []byte("gusts")) {
			return fmt.Errorf("aggregated discovery does not show gusts")
		}
		return nil
	})
}
