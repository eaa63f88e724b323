// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// convertShips is a conversion webhook: v1 has spec.masts, v2 has spec.rig.masts.
func convertShips(w http.ResponseWriter, r *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		var u unstructured.Unstructured
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			response.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		from, to := []string{"spec", "masts"}, []string{"spec", "rig", "masts"}
		if strings.HasSuffix(review.Request.DesiredAPIVersion, "/v1") {
			from, to = to, from
		}
		if masts, ok, _ := unstructured.NestedInt64(u.Object, from...); ok {
			unstructured.RemoveNestedField(u.Object, from[0], from[1])
			if err := unstructured.SetNestedField(u.Object, masts, to...); err != nil {
				response.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
				break
			}
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		data, err := u.MarshalJSON()
		if err != nil {
			response.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Raw: data})
	}
	review.Request, review.Response = nil, response
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

func ships(port int32, ca []byte) *apiextensionsv1.CustomResourceDefinition {
	count := apiextensionsv1.JSONSchemaProps{Type: "integer", XValidations: apiextensionsv1.ValidationRules{
		{Rule: "self >= 1", Message: "a ship has a mast"},
		{Rule: "self >= oldSelf", Message: "masts are never taken away"},
	}}
	object := func(properties map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties}
	}
	type properties = map[string]apiextensionsv1.JSONSchemaProps
	version := func(name string, storage bool, spec apiextensionsv1.JSONSchemaProps) apiextensionsv1.CustomResourceDefinitionVersion {
		root := object(properties{"spec": spec})
		return apiextensionsv1.CustomResourceDefinitionVersion{Name: name, Served: true, Storage: storage, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &root}}
	}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "ships.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "ships", Singular: "ship", Kind: "Ship", ListKind: "ShipList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{
				version("v1", false, object(properties{"masts": count})),
				version("v2", true, object(properties{"rig": object(properties{"masts": count})})),
			},
			Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
				ConversionReviewVersions: []string{"v1"},
				ClientConfig: &apiextensionsv1.WebhookClientConfig{CABundle: ca,
					Service: &apiextensionsv1.ServiceReference{Namespace: "default", Name: "shipyard", Path: ptr.To("/convert"), Port: &port}},
			}},
		},
	}
}

// TestConversionByWebhook has a custom resource in two versions, converted by a webhook behind a Service, with CEL rules that see the old object.
func TestConversionByWebhook(t *testing.T) {
	cfg := apitest.Start(t, apitest.Options{})
	client, dyn := kubernetes.NewForConfigOrDie(cfg), dynamic.NewForConfigOrDie(cfg)
	port, ca := apitest.BehindService(t, client, "shipyard", convertShips)
	if _, err := apiextensionsclient.NewForConfigOrDie(cfg).ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), ships(port, ca), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	of := func(version string) dynamic.ResourceInterface {
		return dyn.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "ships"}).Namespace("default")
	}
	ship := func(name string, masts int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Ship", "metadata": map[string]any{"name": name}, "spec": map[string]any{"masts": masts}}}
	}
	var made *unstructured.Unstructured
	eventually(t, func() (err error) {
		made, err = of("v1").Create(t.Context(), ship("gorch", 3), metav1.CreateOptions{})
		return err
	})
	if masts, _, _ := unstructured.NestedInt64(made.Object, "spec", "masts"); masts != 3 {
		t.Errorf("created as v1 it has %d masts in v1, want 3", masts)
	}
	stored, err := of("v2").Get(t.Context(), "gorch", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if masts, _, _ := unstructured.NestedInt64(stored.Object, "spec", "rig", "masts"); masts != 3 {
		t.Errorf("read as v2 it is %v, want spec.rig.masts 3", stored.Object["spec"])
	}
	list, err := of("v1").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].GetAPIVersion() != "example.com/v1" {
		t.Errorf("the list as v1 is %v (%v)", list, err)
	}
	if _, err := of("v1").Create(t.Context(), ship("raft", 0), metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "a ship has a mast") {
		t.Errorf("a rule was broken: %v, want Invalid with its message", err)
	}
	if err := unstructured.SetNestedField(stored.Object, int64(2), "spec", "rig", "masts"); err != nil {
		t.Fatal(err)
	}
	if _, err := of("v2").Update(t.Context(), stored, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "never taken away") {
		t.Errorf("a rule about the old object was broken: %v, want Invalid with its message", err)
	}
	patched, err := of("v1").Patch(t.Context(), "gorch", "application/merge-patch+json", []byte(`{"spec":{"masts":4}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if masts, _, _ := unstructured.NestedInt64(patched.Object, "spec", "masts"); masts != 4 {
		t.Errorf("patched as v1 it has %d masts, want 4", masts)
	}
}

// TestMutatingAdmissionPolicy changes objects by an apply configuration and by a JSON patch, with parameters from a ConfigMap.
func TestMutatingAdmissionPolicy(t *testing.T) {
	cfg := apitest.Start(t, apitest.Options{})
	client := kubernetes.NewForConfigOrDie(cfg)
	ns := namespace(t, client, "mutated")
	if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "params"}, Data: map[string]string{"team": "riggers"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	policies := client.AdmissionregistrationV1().MutatingAdmissionPolicies()
	_, err := policies.Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "stamp.example.com"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			ParamKind: &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{Operations: []admissionregistrationv1.OperationType{"CREATE"},
					Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}}}}}},
			MatchConditions:    []admissionregistrationv1.MatchCondition{{Name: "not-exempt", Expression: "!object.metadata.name.startsWith('exempt')"}},
			ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			FailurePolicy:      ptr.To(admissionregistrationv1.Fail),
			Mutations: []admissionregistrationv1.Mutation{
				{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{
					Expression: "Object{metadata: Object.metadata{labels: {'team': params.data.team}}}"}},
				{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{
					Expression: "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'by': request.userInfo.username}}]"}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "stamp"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "stamp.example.com",
			ParamRef:       &admissionregistrationv1.ParamRef{Name: "params", Namespace: ns, ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)},
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, func() error {
		n++
		made, err := client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s-%d", n)}}, metav1.CreateOptions{})
		if err == nil && (made.Labels["team"] != "riggers" || made.Annotations["by"] == "") {
			err = fmt.Errorf("labels are %v, annotations %v", made.Labels, made.Annotations)
		}
		return err
	})
	exempt, err := client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "exempt"}}, metav1.CreateOptions{})
	if err != nil || exempt.Labels["team"] != "" {
		t.Errorf("what the match condition excludes became %v (%v)", exempt.Labels, err)
	}
	elsewhere, err := client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}, metav1.CreateOptions{})
	if err != nil || elsewhere.Labels["team"] != "" {
		t.Errorf("what the binding does not select became %v (%v)", elsewhere.Labels, err)
	}
}
