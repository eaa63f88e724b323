// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// approval reads, patches and updates the subresource approval of a CertificateSigningRequest.
func approval(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	csrs := client.CertificatesV1().CertificateSigningRequests()
	var csr certificatesv1.CertificateSigningRequest
	text, err := readSamples(t)["certificates.k8s.io/v1 CertificateSigningRequest"].MarshalJSON()
	if err == nil {
		err = json.Unmarshal(text, &csr)
	}
	if err != nil {
		t.Fatal(err)
	}
	made, err := csrs.Create(t.Context(), &csr, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(want ...certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequest {
		t.Helper()
		got := &certificatesv1.CertificateSigningRequest{}
		if err := client.CertificatesV1().RESTClient().Get().Resource("certificatesigningrequests").Name(made.Name).SubResource("approval").Do(t.Context()).Into(got); err != nil {
			t.Fatal(err)
		}
		var types []certificatesv1.RequestConditionType
		for _, c := range got.Status.Conditions {
			types = append(types, c.Type)
		}
		if !slices.Equal(types, want) {
			t.Errorf("conditions are %v, want %v", types, want)
		}
		return got
	}
	get()
	_, err = csrs.Patch(t.Context(), made.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedapproval":"true"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"}]}}`),
		metav1.PatchOptions{}, "approval")
	if err != nil {
		t.Fatal(err)
	}
	got := get("ApprovalPatch")
	if got.Annotations["patchedapproval"] != "true" {
		t.Errorf("after a patch of /approval the annotations are %v", got.Annotations)
	}
	got.Status.Conditions = append(got.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "E2E", Message: "Set from a test"})
	if _, err := csrs.UpdateApproval(t.Context(), made.Name, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	get("ApprovalPatch", certificatesv1.CertificateApproved)
}

// eventSeries patches and updates an event's series in the new group, and its message in the core group, which allows that.
func eventSeries(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	events := client.EventsV1().Events("default")
	e, err := events.Create(t.Context(), &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "series", Labels: map[string]string{"of": "series"}}, EventTime: metav1.NowMicro(),
		ReportingController: "example.com/test", ReportingInstance: "test-1", Action: "Do", Reason: "Test", Note: "This is a test event", Type: "Normal",
		Regarding: corev1.ObjectReference{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Through events.k8s.io only the series may change.
	if _, err := events.Patch(t.Context(), e.Name, types.StrategicMergePatchType, []byte(`{"note":"This is another note"}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a patched note: %v, want Invalid", err)
	}
	if _, err := events.Create(t.Context(), &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "timeless"}, Reason: "Test", Type: "Normal", Regarding: corev1.ObjectReference{Namespace: "default"}},
		metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "eventTime: Required") {
		t.Errorf("an event without a time: %v, want Invalid", err)
	}
	patch := []byte(`{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}`)
	if e, err = events.Patch(t.Context(), e.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil || e.Series == nil || e.Series.Count != 2 {
		t.Fatalf("patched: %v, %v", e, err)
	}
	e.Series = &eventsv1.EventSeries{Count: 100, LastObservedTime: metav1.NowMicro()}
	if e, err = events.Update(t.Context(), e, metav1.UpdateOptions{}); err != nil || e.Series == nil || e.Series.Count != 100 {
		t.Fatalf("updated: %v, %v", e, err)
	}
	old, err := client.CoreV1().Events("default").Get(t.Context(), e.Name, metav1.GetOptions{})
	if err != nil || old.Series == nil || old.Series.Count != 100 || old.Message != "This is a test event" {
		t.Errorf("in the core group: %v, %v", old, err)
	}
	old.Message, old.Series = "This is another note", &corev1.EventSeries{Count: 101, LastObservedTime: metav1.NowMicro()}
	if old, err = client.CoreV1().Events("default").Update(t.Context(), old, metav1.UpdateOptions{}); err != nil || old.Series == nil || old.Series.Count != 101 || old.Message != "This is another note" {
		t.Errorf("updated in the core group: %v, %v", old, err)
	}
}

// typedFieldValidation and fieldsOfSchemas send what a schema does not have, with Strict, as create, patch and apply.
func typedFieldValidation(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"strict"%s},"spec":{"selector":{"matchLabels":{"app":"x"}}%s,
		"template":{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"c","image":"example.com/c"}]}}}}`
	for _, c := range []struct{ meta, spec, want string }{
		{"", `,"unknown1":"val1","replicas":1,"replicas":1`, `unknown field \"spec.unknown1\"`},
		{"", `,"unknown1":"val1","replicas":1,"replicas":1`, `duplicate field \"spec.replicas\"`},
		{`,"unknownMeta":"unknown"`, ``, `unknown field \"metadata.unknownMeta\"`},
	} {
		body := []byte(fmt.Sprintf(deployment, c.meta, c.spec))
		status, answer := raw(t, cfg, "POST", "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict", "application/json", "application/json", body)
		if status != 400 || !strings.Contains(string(answer), c.want) {
			t.Errorf("created: status %d, %s; want 400 with %s", status, answer, c.want)
		}
		status, answer = raw(t, cfg, "PATCH", "/apis/apps/v1/namespaces/default/deployments/strict?fieldValidation=Strict&fieldManager=test", "application/apply-patch+yaml", "application/json", body)
		if status < 400 || !strings.Contains(string(answer), "field not declared in schema") { // the library says 500, in Kubernetes, too
			t.Errorf("applied: status %d, %s; want it refused", status, answer)
		}
	}
	if status, answer := raw(t, cfg, "POST", "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict", "application/json", "application/json", []byte(fmt.Sprintf(deployment, "", ""))); status != 201 {
		t.Errorf("valid: status %d, %s", status, answer)
	}
}

func fieldsOfSchemas(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	define(t, cfg, definition("oars", "Oar", `{"type":"object","properties":{"spec":{"type":"object","required":["blades"],"properties":{"blades":{"type":"integer"}}}}}`, "v1"))
	const path = "/apis/oars.example.com/v1/namespaces/default/oars"
	send := func(method, path, contentType, spec string) (int, string) {
		status, answer := raw(t, cfg, method, path, contentType, "application/json", []byte(`{"apiVersion":"oars.example.com/v1","kind":"Oar","metadata":{"name":"long"},"spec":{`+spec+`}}`))
		return status, string(answer)
	}
	soon(t, "an oar is applied", func() error {
		if status, answer := send("PATCH", path+"/long?fieldManager=test&fieldValidation=Strict", "application/apply-patch+yaml", `"blades":1`); status != 201 && status != 200 {
			return fmt.Errorf("status %d, %s", status, answer)
		}
		return nil
	})
	for what, c := range map[string]struct{ method, path, contentType string }{
		"created": {"POST", path + "?fieldValidation=Strict", "application/json"},
		"patched": {"PATCH", path + "/long?fieldValidation=Strict", "application/merge-patch+json"},
		"applied": {"PATCH", path + "/long?fieldManager=test&fieldValidation=Strict", "application/apply-patch+yaml"},
	} {
		if status, answer := send(c.method, c.path, c.contentType, `"blades":1,"extra":"field"`); status < 400 || !strings.Contains(answer, "extra") {
			t.Errorf("%s with an unknown field: status %d, %s; want it refused and the field named", what, status, answer)
		}
	}
	if status, answer := send("PATCH", path+"/long?fieldValidation=Strict", "application/merge-patch+json", `"blades":null`); status != 422 || !strings.Contains(answer, "spec.blades") {
		t.Errorf("without a required field: status %d, %s; want 422 that names it", status, answer)
	}
}

// publishedTogether has kinds in one group version and versions of one kind; all are in OpenAPI and in aggregated discovery.
func publishedTogether(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	const open = `{"type":"object","properties":{"spec":{"type":"object","properties":{"n":{"type":"integer"}}}}}`
	for plural, kind := range map[string]string{"sloops": "Sloop", "ketches": "Ketch"} {
		d := definition(plural, kind, open, "v1", "v2")
		d["metadata"].(map[string]any)["name"] = plural + ".fleet.example.com"
		d["spec"].(map[string]any)["group"] = "fleet.example.com"
		define(t, cfg, d)
	}
	define(t, cfg, definition("luggers", "Lugger", open, "v4")) // of another group, in another version
	soon(t, "all are in OpenAPI v2 and v3", func() error {
		_, v2 := raw(t, cfg, "GET", "/openapi/v2", "", "application/json", nil)
		var missing []string
		for _, name := range []string{"fleet.v1.Sloop", "fleet.v1.Ketch", "fleet.v2.Sloop", "fleet.v2.Ketch", "luggers.v4.Lugger"} {
			parts := strings.Split(name, ".")
			_, v3 := raw(t, cfg, "GET", "/openapi/v3/apis/"+parts[0]+".example.com/"+parts[1], "", "application/json", nil)
			if want := `"com.example.` + name + `"`; !strings.Contains(string(v2), want) || !strings.Contains(string(v3), want) {
				missing = append(missing, name)
			}
		}
		if missing != nil {
			return fmt.Errorf("%v are not there", missing)
		}
		return nil
	})
	for _, root := range []string{"/api", "/apis"} {
		for _, version := range []string{"v2", "v2beta1"} {
			accept := "application/json;g=apidiscovery.k8s.io;v=" + version + ";as=APIGroupDiscoveryList"
			soon(t, "they are in aggregated discovery at "+root, func() error {
				status, text := raw(t, cfg, "GET", root, "", accept+",application/json", nil)
				var list struct {
					Kind, APIVersion string
					Items            []struct {
						Metadata struct{ Name string }
						Versions []struct {
							Version   string
							Resources []struct{ Resource string }
						}
					}
				}
				if err := json.Unmarshal(text, &list); err != nil || status != 200 || version == "v2" && (list.Kind != "APIGroupDiscoveryList" || list.APIVersion != "apidiscovery.k8s.io/v2") {
					return fmt.Errorf("status %d, kind %s of %s, %w", status, list.Kind, list.APIVersion, err)
				}
				if root == "/api" || version != "v2" {
					return nil // v2beta1 is no longer served by 1.37: any document of discovery will do
				}
				found := 0
				for _, g := range list.Items {
					for _, v := range g.Versions {
						for _, r := range v.Resources {
							if g.Metadata.Name == "fleet.example.com" && (r.Resource == "sloops" || r.Resource == "ketches") || g.Metadata.Name == "luggers.example.com" && r.Resource == "luggers" {
								found++
							}
						}
					}
				}
				if found != 5 {
					return fmt.Errorf("%d of 5 resources", found)
				}
				return nil
			})
		}
	}
}

// mixedList lists custom resources that are stored in different versions.
func mixedList(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	const open = `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`
	dyn := define(t, cfg, definition("rafts", "Raft", open, "v1", "v2"))
	rafts := func(version string) dynamic.ResourceInterface {
		return dyn.Resource(schema.GroupVersionResource{Group: "rafts.example.com", Version: version, Resource: "rafts"}).Namespace("default")
	}
	make := func(version, name string) {
		t.Helper()
		soon(t, name+" is made", func() error {
			_, err := rafts(version).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "rafts.example.com/" + version, "kind": "Raft", "metadata": map[string]any{"name": name}}}, metav1.CreateOptions{})
			return err
		})
	}
	make("v1", "first")
	define(t, cfg, definition("rafts", "Raft", open, "v2", "v1")) // v2 is stored from now on
	make("v2", "second")
	for _, version := range []string{"v1", "v2"} {
		soon(t, "both are listed as "+version, func() error {
			list, err := rafts(version).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, r := range list.Items {
				if r.GetAPIVersion() != "rafts.example.com/"+version {
					err = errors.Join(err, fmt.Errorf("%s is %s", r.GetName(), r.GetAPIVersion()))
				}
			}
			if len(list.Items) != 2 {
				err = errors.Join(err, fmt.Errorf("%d are listed", len(list.Items)))
			}
			return err
		})
	}
}
