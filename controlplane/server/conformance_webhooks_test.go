// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// asks serves a webhook whose answers decide gives: a JSON patch, empty for none, or an error that refuses.
func asks(t *testing.T, client kubernetes.Interface, name string, decide func(*admissionv1.AdmissionRequest) (string, error)) v1.WebhookClientConfig {
	t.Helper()
	port, ca := apitest.BehindService(t, client, name, func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
			return
		}
		patch, err := decide(review.Request)
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: err == nil}
		if err != nil {
			review.Response.Result = &metav1.Status{Message: err.Error()}
		}
		if patch != "" {
			review.Response.Patch, review.Response.PatchType = []byte(patch), ptr.To(admissionv1.PatchTypeJSONPatch)
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	})
	return v1.WebhookClientConfig{CABundle: ca, Service: &v1.ServiceReference{Namespace: "default", Name: name, Port: &port}}
}

func mutating(name string, config v1.WebhookClientConfig, rules []v1.RuleWithOperations) v1.MutatingWebhook {
	return v1.MutatingWebhook{Name: name + ".example.com", SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, Rules: rules, ClientConfig: config}
}

// refuser registers a validating webhook that refuses with "no NAME here" what it is asked about.
func refuser(t *testing.T, client kubernetes.Interface, name string, rules []v1.RuleWithOperations) {
	t.Helper()
	config := asks(t, client, name, func(*admissionv1.AdmissionRequest) (string, error) { return "", fmt.Errorf("no %s here", name) })
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := hooks.Create(t.Context(), &v1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []v1.ValidatingWebhook{{
		Name: name + ".example.com", SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, Rules: rules, ClientConfig: config}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), name, metav1.DeleteOptions{}) })
}

// refused waits until f is refused as a refuser of that name does.
func refused(t *testing.T, name string, f func() error) {
	t.Helper()
	soon(t, name+" is refused", func() error {
		if err := f(); err == nil || !strings.Contains(err.Error(), "denied the request: no "+name+" here") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
}

// probe makes a ConfigMap and returns its data.
func probe(t *testing.T, client kubernetes.Interface, data map[string]string) (map[string]string, error) {
	m, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"}, Data: data}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func changedWebhooks(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	config := asks(t, client, "changed", func(*admissionv1.AdmissionRequest) (string, error) {
		return `[{"op":"add","path":"/data","value":{"mutated":"yes"}}]`, nil
	})
	hooks := client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	labels := map[string]string{"webhooks": "changed"}
	for _, name := range []string{"changed", "changed-too"} { // the second one never asks
		of := rules("", "configmaps", v1.Create)
		if name != "changed" {
			of = rules("", "nothing", v1.Create)
		}
		_, err := hooks.Create(t.Context(), &v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Webhooks: []v1.MutatingWebhook{mutating(name, config, of)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = hooks.Delete(context.Background(), name, metav1.DeleteOptions{}) })
	}
	mutated := func(want string) {
		t.Helper()
		soon(t, fmt.Sprintf("a ConfigMap has mutated=%q", want), func() error {
			data, err := probe(t, client, nil)
			if err == nil && data["mutated"] != want {
				err = fmt.Errorf("data %v", data)
			}
			return err
		})
	}
	mutated("yes")
	selector := metav1.ListOptions{LabelSelector: "webhooks=changed"}
	list, err := hooks.List(t.Context(), selector)
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("configurations by label: %v, %v, want 2", list, err)
	}
	hook := &list.Items[0]
	hook.Webhooks[0].Rules[0].Operations = []v1.OperationType{v1.Update}
	if _, err := hooks.Update(t.Context(), hook, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	mutated("")
	if _, err := hooks.Patch(t.Context(), hook.Name, types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["CREATE"]}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	mutated("yes")
	if err := hooks.DeleteCollection(t.Context(), metav1.DeleteOptions{}, selector); err != nil {
		t.Fatal(err)
	}
	mutated("")
	if list, err := hooks.List(t.Context(), selector); err != nil || len(list.Items) != 0 {
		t.Errorf("after the deletion of all: %v, %v", list, err)
	}
}

func orderedMutation(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	stage := func(name, after, adds string) v1.MutatingWebhook {
		return mutating(name, asks(t, client, name, func(r *admissionv1.AdmissionRequest) (string, error) {
			var m corev1.ConfigMap
			if err := json.Unmarshal(r.Object.Raw, &m); err != nil {
				return "", err
			}
			if _, there := m.Data[after]; !there {
				return "", nil
			}
			return fmt.Sprintf(`[{"op":"add","path":"/data/%s","value":"yes"}]`, adds), nil
		}), rules("", "configmaps", v1.Create))
	}
	hooks := client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err := hooks.Create(t.Context(), &v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "ordered"},
		Webhooks: []v1.MutatingWebhook{stage("first", "start", "one"), stage("second", "one", "two")}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), "ordered", metav1.DeleteOptions{}) })
	soon(t, "the second webhook sees what the first did", func() error {
		data, err := probe(t, client, map[string]string{"start": "yes"})
		if err == nil && (data["one"] != "yes" || data["two"] != "yes") {
			err = fmt.Errorf("data %v", data)
		}
		return err
	})
}

func denied(t *testing.T, cfg *rest.Config, client kubernetes.Interface) {
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	_, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "attached"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/c"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	refuser(t, client, "attaching", rules("", "pods/attach", v1.Connect))
	refused(t, "attaching", func() error {
		return client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("attached").SubResource("attach").
			VersionedParams(&corev1.PodAttachOptions{Stdout: true}, scheme.ParameterCodec).Do(t.Context()).Error()
	})

	dyn := define(t, cfg, definition("knots", "Knot", `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, "v1"))
	knots := dyn.Resource(schema.GroupVersionResource{Group: "knots.example.com", Version: "v1", Resource: "knots"}).Namespace("default")
	knot := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "knots.example.com/v1", "kind": "Knot", "metadata": map[string]any{"name": name}}}
	}
	soon(t, "a knot is made", func() error {
		_, err := knots.Create(t.Context(), knot("bowline"), metav1.CreateOptions{})
		return err
	})
	refuser(t, client, "knots", rules("knots.example.com", "knots", v1.Create, v1.Update, v1.Delete))
	refused(t, "knots", func() error {
		_, err := knots.Create(t.Context(), knot("reef"), metav1.CreateOptions{})
		return err
	})
	refused(t, "knots", func() error {
		_, err := knots.Patch(t.Context(), "bowline", types.MergePatchType, []byte(`{"tight":true}`), metav1.PatchOptions{})
		return err
	})
	refused(t, "knots", func() error { return knots.Delete(t.Context(), "bowline", metav1.DeleteOptions{}) })

	refuser(t, client, "definitions", rules("apiextensions.k8s.io", "customresourcedefinitions", v1.Create))
	refused(t, "definitions", func() error {
		_, err := dyn.Resource(definitions).Create(t.Context(), &unstructured.Unstructured{Object: definition("hitches", "Hitch", `{"type":"object"}`, "v1")}, metav1.CreateOptions{})
		return err
	})
}

func otherStoredVersion(t *testing.T, cfg *rest.Config, client kubernetes.Interface) {
	const open = `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`
	dyn := define(t, cfg, definition("canvases", "Canvas", open, "v1", "v2"))
	mutator(t, client, "hoister", `[{"op":"add","path":"/hoisted","value":"yes"}]`, rules("canvases.example.com", "canvases", v1.Create, v1.Update))
	canvases := func(version string) dynamic.ResourceInterface {
		return dyn.Resource(schema.GroupVersionResource{Group: "canvases.example.com", Version: version, Resource: "canvases"}).Namespace("default")
	}
	soon(t, "a sail is stored in v1, mutated", func() error {
		made, err := canvases("v1").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "canvases.example.com/v1", "kind": "Canvas", "metadata": map[string]any{"name": "jib"}}}, metav1.CreateOptions{})
		if err == nil && made.Object["hoisted"] != "yes" {
			err = errors.Join(errors.New("it is not mutated"), canvases("v1").Delete(t.Context(), "jib", metav1.DeleteOptions{}))
		}
		return err
	})
	define(t, cfg, definition("canvases", "Canvas", open, "v2", "v1")) // v2 is stored from now on
	soon(t, "the sail is patched, mutated and stored in v2", func() error {
		got, err := canvases("v1").Patch(t.Context(), "jib", types.MergePatchType, []byte(`{"color":"red","hoisted":null}`), metav1.PatchOptions{})
		if err == nil && (got.Object["color"] != "red" || got.Object["hoisted"] != "yes") {
			err = fmt.Errorf("it is %v", got.Object)
		}
		return err
	})
	if got, err := canvases("v2").Get(t.Context(), "jib", metav1.GetOptions{}); err != nil || got.Object["color"] != "red" {
		t.Errorf("read as v2: %v, %v", got, err)
	}
}

func definitionsAsObjects(t *testing.T, cfg *rest.Config, _ kubernetes.Interface) {
	crds := dynamic.NewForConfigOrDie(cfg).Resource(definitions)
	marked := func(plural, kind string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: definition(plural, kind, `{"type":"object"}`, "v1")}
		u.SetLabels(map[string]string{"set": "spars"})
		return u
	}
	selector := metav1.ListOptions{LabelSelector: "set=spars"}
	w, err := crds.Watch(t.Context(), selector)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, u := range []*unstructured.Unstructured{marked("spars", "Spar"), marked("booms", "Boom")} {
		if _, err := crds.Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const name = "spars.spars.example.com"
	condition := `{"status":{"conditions":[{"type":"Seen","status":"True","reason":"Test","message":"m","lastTransitionTime":"2020-01-01T00:00:00Z"}]}}`
	if _, err := crds.Patch(t.Context(), name, types.MergePatchType, []byte(condition), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	soon(t, "the status of a definition shows the condition", func() error {
		got, err := crds.Get(t.Context(), name, metav1.GetOptions{}, "status")
		if err != nil {
			return err
		}
		if conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions"); !strings.Contains(fmt.Sprint(conditions), "Seen") {
			_, err = crds.Patch(t.Context(), name, types.MergePatchType, []byte(condition), metav1.PatchOptions{}, "status")
			return errors.Join(err, fmt.Errorf("conditions %v", conditions)) // the server's own conditions came after it
		}
		return nil
	})
	list, err := crds.List(t.Context(), selector)
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("definitions by label: %v, %v, want 2", list, err)
	}
	if err := crds.DeleteCollection(t.Context(), metav1.DeleteOptions{}, selector); err != nil {
		t.Fatal(err)
	}
	seen := map[watch.EventType]bool{}
	for !seen[watch.Deleted] {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				t.Fatalf("the watch ended; it saw %v", seen)
			}
			seen[e.Type] = true
		case <-t.Context().Done():
			t.Fatalf("the watch saw %v", seen)
		}
	}
	if !seen[watch.Added] || !seen[watch.Modified] {
		t.Errorf("the watch saw %v, want Added and Modified, too", seen)
	}
	soon(t, "all of them are gone", func() error {
		list, err := crds.List(t.Context(), selector)
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}
