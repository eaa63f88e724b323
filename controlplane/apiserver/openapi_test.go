// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

func TestOpenAPIDocuments(t *testing.T) {
	cfg := apitest.Start(t, apitest.Options{})
	get := func(path, accept string) []byte {
		t.Helper()
		status, _, body := raw(t, cfg, "GET", path, "", accept, nil)
		if status != 200 || len(body) == 0 {
			t.Fatalf("GET %s: status %d, %d bytes", path, status, len(body))
		}
		return body
	}
	type document struct {
		Paths       map[string]json.RawMessage `json:"paths"`
		Definitions map[string]json.RawMessage `json:"definitions"`
		Components  struct {
			Schemas map[string]struct {
				Kinds []struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`
			} `json:"schemas"`
		} `json:"components"`
	}
	read := func(path string) (d document) {
		t.Helper()
		if err := json.Unmarshal(get(path, "application/json"), &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	// At once after the start, and twice: what was read once is not forgotten.
	for range 2 {
		if d := read("/openapi/v2"); d.Definitions["io.k8s.api.apps.v1.Deployment"] == nil || d.Paths["/api/v1/namespaces/{namespace}/pods"] == nil {
			t.Errorf("OpenAPI v2 has %d definitions and %d paths, but not those of Deployment and pods", len(d.Definitions), len(d.Paths))
		}
		var root struct {
			Paths map[string]struct{ ServerRelativeURL string }
		}
		if err := json.Unmarshal(get("/openapi/v3", ""), &root); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"api/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1", "apis/apiregistration.k8s.io/v1"} {
			if !strings.HasPrefix(root.Paths[path].ServerRelativeURL, "/openapi/v3/"+path+"?hash=") {
				t.Errorf("/openapi/v3 lists %s as %q", path, root.Paths[path].ServerRelativeURL)
			}
		}
		d := read(root.Paths["apis/apps/v1"].ServerRelativeURL)
		if d.Paths["/apis/apps/v1/namespaces/{namespace}/deployments"] == nil {
			t.Errorf("the document of apps/v1 has %d paths, but not that of deployments", len(d.Paths))
		}
		kinds := d.Components.Schemas["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"].Kinds
		if len(kinds) != 2 {
			t.Errorf("in apps/v1 DeleteOptions is %v, want the kinds of v1 and apps/v1", kinds)
		}
		if pb := get(root.Paths["apis/apps/v1"].ServerRelativeURL, "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"); json.Valid(pb) {
			t.Error("JSON was sent where protobuf was asked for")
		}
	}
}
