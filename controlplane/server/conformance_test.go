// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// TestPublishedBehaviours does, without a running pod, what entries of Kubernetes' test/conformance/testdata/conformance.yaml describe and no other test
// of ours did. The names of the cases are the entries'.
func TestPublishedBehaviours(t *testing.T) {
	env, stop := start(t, shortDir(t))
	defer stop()
	cfg, err := clientcmd.BuildConfigFromFlags("", env.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	client := kubernetes.NewForConfigOrDie(cfg)
	for _, c := range []struct {
		name string
		test func(*testing.T, *rest.Config, kubernetes.Interface)
	}{
		{"Confirm a server version", serverVersion},
		{"API metadata HTTP return", noTableWithoutMetadata},
		{"watch-configmaps-label-changed", labelChanged},
		{"Namespace, apply finalizer and changes to its status", namespaceFinalizerAndStatus},
		{"ResourceQuota, apply changes to a ResourceQuota status", quotaStatus},
		{"Custom Resource OpenAPI Publish, stop serving and rename a version", publishedVersions},
		{"Server side field validation of custom resources", customFieldValidation},
		{"Custom Resource Definition, defaulting", changedDefaults},
		{"Admission webhook configurations with match conditions", matchConditions},
		{"Admission webhook, no control over webhook configuration objects", webhooksOverWebhooks},
		{"Admission webhook, fail closed", failClosed},
		{"Mutating Admission webhook, defaulting and pruning after it", afterMutation},
		{"Admission webhook, list, update and delete mutating webhooks", changedWebhooks},
		{"Admission webhook, ordered mutation", orderedMutation},
		{"Admission webhook, deny attach, custom resources and their definitions", denied},
		{"Admission webhook, mutate custom resource with different stored version", otherStoredVersion},
		{"Custom Resource Definition, watch, status sub-resource and list", definitionsAsObjects},
		{"Admission webhook, list and update validating webhooks", changedValidators},
		{"Admission webhook, deny create", deniedObjects},
		{"Admission webhook, honor timeout", slowWebhook},
		{"Mutating Admission webhook, match conditions; excluding object with specific name", skipMe},
		{"ValidatingAdmissionPolicy, variables, against a Deployment", policyWithVariables},
		{"CertificateSigningRequest API, approval", approval},
		{"New Event resource lifecycle, testing a single event", eventSeries},
		{"Server side field validation, typed object", typedFieldValidation},
		{"Server side field validation, CR with validation schema", fieldsOfSchemas},
		{"Custom Resource OpenAPI Publish, varying groups, kinds, versions; aggregated discovery of CRDs", publishedTogether},
		{"Custom Resource Definition, mixed version list", mixedList},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, cfg, client) })
	}
}

// raw sends a request that no typed client would and returns status and body of the answer.
func raw(t *testing.T, cfg *rest.Config, method, path, contentType, accept string, body []byte) (int, []byte) {
	t.Helper()
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, cfg.Host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, data
}

// soon waits until f returns nil.
func soon(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 2 minutes: %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func serverVersion(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	v, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{v.Major, v.Minor} {
		if _, err := strconv.Atoi(part); err != nil {
			t.Errorf("version %s.%s: want integers", v.Major, v.Minor)
		}
	}
	if v.GitVersion == "" || v.Platform == "" || v.GoVersion == "" {
		t.Errorf("the version lacks something: %+v", v)
	}
}

func noTableWithoutMetadata(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	body := []byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`)
	status, answer := raw(t, cfg, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json", "application/json;as=Table;v=v1;g=meta.k8s.io", body)
	if status != http.StatusNotAcceptable {
		t.Errorf("a table of a review: status %d, want 406: %s", status, answer)
	}
}

func labelChanged(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	maps := client.CoreV1().ConfigMaps("default")
	w, err := maps.Watch(t.Context(), metav1.ListOptions{LabelSelector: "seen=yes"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "turncoat", Labels: map[string]string{"seen": "yes"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, patch := range []string{`{"metadata":{"labels":{"seen":"no"}}}`, `{"data":{"k":"unseen"}}`, `{"metadata":{"labels":{"seen":"yes"}}}`} {
		m, err := maps.Patch(t.Context(), "turncoat", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, m.ResourceVersion)
	}
	if err := maps.Delete(t.Context(), "turncoat", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []watch.EventType{watch.Added, watch.Deleted, watch.Added, watch.Deleted} {
		select {
		case e := <-w.ResultChan():
			if e.Type != want {
				t.Fatalf("event %d is %s, want %s", i, e.Type, want)
			}
			if m := e.Object.(*corev1.ConfigMap); i == 1 && m.ResourceVersion != versions[0] {
				t.Errorf("the object left the selection at %s, want %s", m.ResourceVersion, versions[0])
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("event %d did not come within 20 s", i)
		}
	}
}

func namespaceFinalizerAndStatus(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	namespaces := client.CoreV1().Namespaces()
	ns, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "finalized"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const fake = "example.com/fake"
	ns.Spec.Finalizers = append(ns.Spec.Finalizers, fake)
	if ns, err = namespaces.Finalize(t.Context(), ns, metav1.UpdateOptions{}); err != nil || !slices.Contains(ns.Spec.Finalizers, fake) {
		t.Fatalf("finalizers after /finalize: %v, %v", ns, err)
	}
	ns.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
	if ns, err = namespaces.Finalize(t.Context(), ns, metav1.UpdateOptions{}); err != nil || slices.Contains(ns.Spec.Finalizers, fake) {
		t.Fatalf("the finalizer could not be removed: %v, %v", ns, err)
	}
	patch := `{"metadata":{"annotations":{"a":"b"}},"status":{"conditions":[{"type":"StatusPatch","status":"True","reason":"E2E"}]}}`
	if ns, err = namespaces.Patch(t.Context(), "finalized", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	if len(ns.Status.Conditions) != 1 || ns.Status.Phase != corev1.NamespaceActive || ns.Annotations["a"] != "b" {
		t.Errorf("after a patch of the status: %+v, annotations %v", ns.Status, ns.Annotations)
	}
}

func quotaStatus(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	quotas := client.CoreV1().ResourceQuotas("default")
	hard := func(cpu string) string { return fmt.Sprintf(`{"hard":{"cpu":%q,"memory":"500Mi"}}`, cpu) }
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "status"}}
	if err := json.Unmarshal([]byte(`{"spec":`+hard("500m")+`}`), q); err != nil {
		t.Fatal(err)
	}
	if _, err := quotas.Create(t.Context(), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() { // it would bound the pods of other cases
		if err := quotas.Delete(t.Context(), "status", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	got, err := quotas.Patch(t.Context(), "status", types.MergePatchType, []byte(`{"spec":`+hard("1")+`,"status":`+hard("750m")+`}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Hard.Cpu().String() != "750m" || got.Spec.Hard.Cpu().String() != "500m" {
		t.Errorf("a patch of /status left spec %s and status %s, want 500m and 750m", got.Spec.Hard.Cpu(), got.Status.Hard.Cpu())
	}
	got, err = quotas.Patch(t.Context(), "status", types.MergePatchType, []byte(`{"spec":`+hard("1")+`,"status":`+hard("2")+`}`), metav1.PatchOptions{})
	if err != nil || got.Status.Hard.Cpu().String() != "750m" || got.Spec.Hard.Cpu().String() != "1" {
		t.Errorf("a patch of the quota left spec %s and status %s (%v), want 1 and 750m", got.Spec.Hard.Cpu(), got.Status.Hard.Cpu(), err)
	}
}

// definition is a CRD of namespaced objects in group NAME.example.com with these versions; each is [name, served], the first is stored.
func definition(plural, kind, schema string, versions ...string) map[string]any {
	var list []any
	for i, v := range versions {
		name, unserved := strings.CutSuffix(v, "-")
		var s map[string]any
		if err := json.Unmarshal([]byte(schema), &s); err != nil {
			panic(err)
		}
		list = append(list, map[string]any{"name": name, "served": !unserved, "storage": i == 0, "schema": map[string]any{"openAPIV3Schema": s}})
	}
	return map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + "." + plural + ".example.com"},
		"spec": map[string]any{"group": plural + ".example.com", "scope": "Namespaced", "versions": list,
			"names": map[string]any{"plural": plural, "kind": kind, "listKind": kind + "List"}}}
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// define creates or replaces a CRD and waits until it is served.
func define(t *testing.T, cfg *rest.Config, d map[string]any) dynamic.Interface {
	t.Helper()
	client := dynamic.NewForConfigOrDie(cfg)
	crds := client.Resource(definitions)
	u := &unstructured.Unstructured{Object: d}
	name := u.GetName()
	if _, err := crds.Apply(t.Context(), name, u, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
		t.Fatal(err)
	}
	soon(t, name+" is established", func() error {
		got, err := crds.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions")
		for _, c := range conditions {
			if c := c.(map[string]any); c["type"] == "Established" && c["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", conditions)
	})
	return client
}

func publishedVersions(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	const schema = `{"type":"object","properties":{"spec":{"type":"object","description":"Specification of Mast","properties":{"height":{"type":"integer"}}}}}`
	published := func(version string, want bool) {
		t.Helper()
		soon(t, fmt.Sprintf("%s published: %t", version, want), func() error {
			_, v2 := raw(t, cfg, "GET", "/openapi/v2", "", "application/json", nil)
			status, v3 := raw(t, cfg, "GET", "/openapi/v3/apis/masts.example.com/"+version, "", "application/json", nil)
			var d struct {
				Definitions map[string]struct {
					Kinds []metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
				}
			}
			if err := json.Unmarshal(v2, &d); err != nil {
				return err
			}
			mast, there := d.Definitions["com.example.masts."+version+".Mast"]
			// The library never takes a version out of version 3 that is no longer served, but the published test looks at version 2 only.
			if there != want || want && status != 200 {
				return fmt.Errorf("in version 2: %t, version 3 answers %d", there, status)
			}
			if want && (len(mast.Kinds) != 1 || mast.Kinds[0] != metav1.GroupVersionKind{Group: "masts.example.com", Version: version, Kind: "Mast"} || !strings.Contains(string(v3), "Specification of Mast")) {
				return fmt.Errorf("kinds %v, document %d bytes", mast.Kinds, len(v3))
			}
			return nil
		})
	}
	define(t, cfg, definition("masts", "Mast", schema, "v1", "v2"))
	published("v1", true)
	published("v2", true)
	define(t, cfg, definition("masts", "Mast", schema, "v1", "v2-"))
	published("v2", false)
	published("v1", true)
	define(t, cfg, definition("masts", "Mast", schema, "v1", "v3"))
	published("v3", true)
}

func customFieldValidation(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	define(t, cfg, definition("sails", "Sail", `{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"spec":{"type":"object","x-kubernetes-preserve-unknown-fields":true,
		"properties":{"template":{"type":"object","x-kubernetes-embedded-resource":true,"properties":{"apiVersion":{"type":"string"},"kind":{"type":"string"},"metadata":{"type":"object"}}}}}}}`, "v1"))
	post := func(body string) (int, string) {
		const path = "/apis/sails.example.com/v1/namespaces/default/sails?fieldValidation=Strict"
		status, answer := raw(t, cfg, "POST", path, "application/json", "application/json", []byte(body))
		return status, string(answer)
	}
	soon(t, "sails are served", func() error {
		if status, _ := post(`{"apiVersion":"sails.example.com/v1","kind":"Sail","metadata":{"generateName":"s"},"spec":{"any":"thing"}}`); status != 201 {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	for body, want := range map[string]string{
		`{"apiVersion":"sails.example.com/v1","kind":"Sail","metadata":{"generateName":"s"},"spec":{"any":"a","any":"b"}}`:                                                              `duplicate field \"spec.any\"`,
		`{"apiVersion":"sails.example.com/v1","kind":"Sail","metadata":{"generateName":"s","unknownMeta":1}}`:                                                                           `unknown field \"metadata.unknownMeta\"`,
		`{"apiVersion":"sails.example.com/v1","kind":"Sail","metadata":{"generateName":"s"},"spec":{"template":{"apiVersion":"v1","kind":"X","metadata":{"name":"x","unknownSub":1}}}}`: `unknown field \"spec.template.metadata.unknownSub\"`,
	} {
		if status, answer := post(body); status != 400 || !strings.Contains(answer, want) {
			t.Errorf("%s: status %d, %s; want 400 with %s", body, status, answer, want)
		}
	}
}

func changedDefaults(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	withDefaults := func(defaults string) string {
		return `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}` + defaults + `}}`
	}
	client := define(t, cfg, definition("flags", "Flag", withDefaults(""), "v1"))
	flags := client.Resource(schema.GroupVersionResource{Group: "flags.example.com", Version: "v1", Resource: "flags"}).Namespace("default")
	create := func(name string) {
		t.Helper()
		soon(t, "flag "+name+" is made", func() error {
			_, err := flags.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "flags.example.com/v1", "kind": "Flag", "metadata": map[string]any{"name": name}}}, metav1.CreateOptions{})
			return err
		})
	}
	reads := func(name, field, want string) {
		t.Helper()
		soon(t, fmt.Sprintf("%s.%s reads %q", name, field, want), func() error {
			got, err := flags.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if v, _, _ := unstructured.NestedString(got.Object, field); v != want {
				return fmt.Errorf("it is %q", v)
			}
			return nil
		})
	}
	create("one")
	define(t, cfg, definition("flags", "Flag", withDefaults(`,"a":{"type":"string","default":"A"}`), "v1"))
	reads("one", "a", "A") // from the schema: it is not stored
	create("two")
	define(t, cfg, definition("flags", "Flag", withDefaults(`,"b":{"type":"string","default":"B"}`), "v1"))
	reads("one", "b", "B")
	reads("one", "a", "")
	reads("two", "a", "A") // it was stored with the object
}

func rules(group, resource string, operations ...admissionregistrationv1.OperationType) []admissionregistrationv1.RuleWithOperations {
	return []admissionregistrationv1.RuleWithOperations{{Operations: operations, Rule: admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: []string{resource}}}}
}

func matchConditions(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	hook := func(expression string) *admissionregistrationv1.ValidatingWebhookConfiguration {
		return &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "conditions"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "conditions.example.com", SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To("https://127.0.0.1:1/")}, FailurePolicy: ptr.To(admissionregistrationv1.Ignore),
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "c", Expression: expression}},
			Rules:           rules("", "configmaps", admissionregistrationv1.Create)}}}
	}
	made, err := hooks.Create(t.Context(), hook("object.metadata.name != 'skip-me'"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Webhooks[0].MatchConditions[0].Expression = "false"
	if made, err = hooks.Update(t.Context(), made, metav1.UpdateOptions{}); err != nil || made.Webhooks[0].MatchConditions[0].Expression != "false" {
		t.Errorf("changed match conditions: %v, %v", made, err)
	}
	if err := hooks.Delete(t.Context(), "conditions", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := hooks.Create(t.Context(), hook("... [] bad expression"), metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "compilation failed") {
		t.Errorf("a match condition that is no CEL: %v, want Invalid with \"compilation failed\"", err)
	}
}

// mutator is a webhook that applies a JSON patch to everything it is asked about.
func mutator(t *testing.T, client kubernetes.Interface, name, patch string, rules []admissionregistrationv1.RuleWithOperations) {
	t.Helper()
	port, ca := apitest.BehindService(t, client, name, func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: review.Request.Operation != admissionv1.Delete}
		if review.Response.Allowed {
			review.Response.Patch, review.Response.PatchType = []byte(patch), ptr.To(admissionv1.PatchTypeJSONPatch)
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	})
	hooks := client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err := hooks.Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
		Name: name + ".example.com", SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, Rules: rules,
		ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: ca, Service: &admissionregistrationv1.ServiceReference{Namespace: "default", Name: name, Port: &port}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), name, metav1.DeleteOptions{}) })
}

func webhooksOverWebhooks(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	all := slices.Concat(rules("admissionregistration.k8s.io", "*", admissionregistrationv1.OperationAll), rules("", "configmaps", admissionregistrationv1.Create))
	mutator(t, client, "usurper", `[{"op":"add","path":"/metadata/labels","value":{"mutated":"yes"}}]`, all)
	soon(t, "the webhook works", func() error {
		m, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"}}, metav1.CreateOptions{})
		if err == nil && m.Labels["mutated"] == "" {
			err = fmt.Errorf("%s is not mutated", m.Name)
		}
		return err
	})
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	made, err := hooks.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "free"}}, metav1.CreateOptions{})
	if err != nil || made.Labels["mutated"] != "" {
		t.Errorf("a webhook changed a webhook configuration: %v, %v", made, err)
	}
	if err := hooks.Delete(t.Context(), "free", metav1.DeleteOptions{}); err != nil {
		t.Errorf("a webhook kept a webhook configuration from being deleted: %v", err)
	}
}

func failClosed(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	port, _ := apitest.BehindService(t, client, "closed", func(http.ResponseWriter, *http.Request) {
		t.Error("a webhook whose certificate is not trusted was asked")
	})
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := hooks.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "closed"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
		Name: "closed.example.com", SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, Rules: rules("", "secrets", admissionregistrationv1.Create),
		ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{Namespace: "default", Name: "closed", Port: &port}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer hooks.Delete(t.Context(), "closed", metav1.DeleteOptions{})
	soon(t, "secrets are refused", func() error {
		_, err := client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}}, metav1.CreateOptions{})
		if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "closed.example.com") || !strings.Contains(err.Error(), "certificate") {
			return fmt.Errorf("create a secret: %v", err)
		}
		return nil
	})
}

func afterMutation(t *testing.T, cfg *rest.Config, client kubernetes.Interface) {
	mutator(t, client, "inserter", `[{"op":"add","path":"/spec/initContainers","value":[{"name":"inserted","image":"example.com/x"}]}]`, rules("", "pods", admissionregistrationv1.Create))
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	soon(t, "an inserted container has its defaults", func() error {
		pod, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/c"}}}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].TerminationMessagePolicy != corev1.TerminationMessageReadFile {
			return fmt.Errorf("init containers %+v", pod.Spec.InitContainers)
		}
		return nil
	})
	dyn := define(t, cfg, definition("ropes", "Rope", `{"type":"object","properties":{"data":{"type":"object","properties":{"known":{"type":"string"}}}}}`, "v1"))
	mutator(t, client, "pruned", `[{"op":"add","path":"/data","value":{"known":"yes","unknown":"no"}}]`, rules("ropes.example.com", "ropes", admissionregistrationv1.Create))
	ropes := dyn.Resource(schema.GroupVersionResource{Group: "ropes.example.com", Version: "v1", Resource: "ropes"}).Namespace("default")
	soon(t, "what a webhook adds beyond the schema is pruned", func() error {
		rope, err := ropes.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "ropes.example.com/v1", "kind": "Rope", "metadata": map[string]any{"generateName": "r-"}}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		data, _, _ := unstructured.NestedStringMap(rope.Object, "data")
		if len(data) != 1 || data["known"] != "yes" {
			return fmt.Errorf("data %v", data)
		}
		return nil
	})
}
