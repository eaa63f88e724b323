// SPDX-License-Identifier: Apache-2.0

package apis_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/controlplane/apis"
	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// Every kind's valid object is created, read, written back, listed and deleted through a real server and store, so that what is accepted here is what
// a client's request meets.
func TestEveryKindLivesInAServer(t *testing.T) {
	client, err := dynamic.NewForConfig(apitest.Start(t, apitest.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "ns"}}}
	if _, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, r := range apis.All() {
		if r.SharesStorageWith != nil {
			continue
		}
		name := strings.TrimSuffix(r.GVR.Resource+"."+r.GVR.Version+"."+r.GVR.Group, ".")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var f struct {
				Valid map[string]any `json:"valid"`
			}
			if err := yaml.Unmarshal(text, &f); err != nil {
				t.Fatal(err)
			}
			obj := &unstructured.Unstructured{Object: f.Valid}
			obj.SetAPIVersion(r.GVR.GroupVersion().String())
			obj.SetKind(r.Kind)
			obj.SetUID("")
			if r.Kind == "Job" { // the server labels the pods itself
				unstructured.RemoveNestedField(obj.Object, "spec", "selector")
				unstructured.RemoveNestedField(obj.Object, "spec", "template", "metadata")
			}
			var all dynamic.ResourceInterface = client.Resource(r.GVR)
			if !r.ClusterScoped {
				all = client.Resource(r.GVR).Namespace("ns")
			}
			if _, err := all.Create(ctx, obj, metav1.CreateOptions{FieldValidation: "Strict"}); err != nil {
				t.Fatalf("create: %v", err)
			}
			err = retry.RetryOnConflict(retry.DefaultBackoff, func() error { // the server's own controllers write too
				got, err := all.Get(ctx, obj.GetName(), metav1.GetOptions{})
				if err != nil {
					return err
				}
				got.SetLabels(map[string]string{"touched": "yes"})
				written, err := all.Update(ctx, got, metav1.UpdateOptions{})
				if err == nil && r.HasStatus {
					_, err = all.UpdateStatus(ctx, written, metav1.UpdateOptions{})
				}
				return err
			})
			if err != nil {
				t.Errorf("read and write: %v", err)
			}
			list, err := all.List(ctx, metav1.ListOptions{LabelSelector: "touched=yes"})
			if err != nil || len(list.Items) != 1 {
				t.Errorf("listed %v (%v), want one", list, err)
			}
			if err := all.Delete(ctx, obj.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
}
