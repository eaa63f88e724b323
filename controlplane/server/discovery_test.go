// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
)

// TestDiscoveryIsKubernetes compares every group, version, resource, subresource, kind, scope, verb, short name, category and hash of the storage
// version that is served with testdata/discovery.txt: what Kubernetes 1.37 publishes about its stable versions in api/discovery. It asks in both
// ways, at each group version and aggregated (which has no hashes).
func TestDiscoveryIsKubernetes(t *testing.T) {
	data, err := os.ReadFile("testdata/discovery.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(data)) {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !strings.HasPrefix(line, "#") {
			want = append(want, line)
		}
	}
	env, stop := start(t, shortDir(t))
	defer stop()
	client := discovery.NewDiscoveryClientForConfigOrDie(env.Client)
	client.UseLegacyDiscovery = true
	t.Run("by group version", func(t *testing.T) { compareDiscovery(t, client, want) })
	for i, line := range want {
		want[i], _, _ = strings.Cut(line, " hash=")
	}
	client.UseLegacyDiscovery = false
	t.Run("aggregated", func(t *testing.T) { compareDiscovery(t, client, want) })
}

func compareDiscovery(t *testing.T, client discovery.DiscoveryInterface, want []string) {
	groups, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, g := range groups {
		var versions []string
		for _, v := range g.Versions {
			versions = append(versions, v.Version)
		}
		served = append(served, fmt.Sprintf("group %q prefers %s of %s", g.Name, g.PreferredVersion.Version, strings.Join(versions, ",")))
	}
	for _, l := range lists {
		for _, r := range l.APIResources {
			served = append(served, resourceLine(l.GroupVersion, r))
		}
	}
	for i, line := range served {
		if bare, _, _ := strings.Cut(line, " hash="); slices.Contains(want, bare) {
			served[i], line = bare, bare // no hash is known
		}
		if !slices.Contains(want, line) {
			t.Errorf("served, but not as Kubernetes has it: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(served, line) {
			t.Errorf("Kubernetes has, not served so:        %s", line)
		}
	}
}

// resourceLine is one line of testdata/discovery.txt.
func resourceLine(groupVersion string, r metav1.APIResource) string {
	scope := "Cluster"
	if r.Namespaced {
		scope = "Namespaced"
	}
	kind := r.Kind
	if r.Version != "" && r.Group+"/"+r.Version != groupVersion {
		kind = strings.TrimPrefix(r.Group+"/", "/") + r.Version + "." + kind
	}
	verbs := slices.Sorted(slices.Values(r.Verbs))
	text := strings.Join(verbs, ",")
	switch text {
	case "create,delete,deletecollection,get,list,patch,update,watch":
		text = "all"
	case "get,patch,update":
		text = "part"
	}
	list := func(name string, of []string) string {
		if len(of) == 0 {
			return ""
		}
		return " " + name + "=" + strings.Join(slices.Sorted(slices.Values(of)), ",")
	}
	line := fmt.Sprintf("%s %s %s %s %s", groupVersion, r.Name, kind, scope, text)
	if !strings.Contains(r.Name, "/") {
		line += " singular=" + r.SingularName
	}
	line += list("short", r.ShortNames) + list("categories", r.Categories)
	if r.StorageVersionHash != "" {
		line += " hash=" + r.StorageVersionHash
	}
	return line
}

// TestOpenAPIKnowsEveryKind looks for every kind of discovery in OpenAPI v2 and in its group version's document of OpenAPI v3: a definition that says
// which kind it is, and the paths of the resource and its subresources.
func TestOpenAPIKnowsEveryKind(t *testing.T) {
	env, stop := start(t, shortDir(t))
	defer stop()
	cfg, err := clientcmd.BuildConfigFromFlags("", env.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	type definition struct {
		Kinds []metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
	}
	type document struct {
		Paths       map[string]map[string]any
		Definitions map[string]definition
		Components  struct{ Schemas map[string]definition }
	}
	read := func(path string) (d document) {
		t.Helper()
		status, data := raw(t, cfg, "GET", path, "", "application/json", nil)
		if err := json.Unmarshal(data, &d); status != 200 || err != nil {
			t.Errorf("GET %s: status %d, %v", path, status, err)
		}
		return d
	}
	v2 := read("/openapi/v2")
	_, lists, err := discovery.NewDiscoveryClientForConfigOrDie(cfg).ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	has := func(definitions map[string]definition, kind metav1.GroupVersionKind) bool {
		for _, d := range definitions {
			if slices.Contains(d.Kinds, kind) {
				return true
			}
		}
		return false
	}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		root := "apis/" + l.GroupVersion
		if gv.Group == "" {
			root = "api/" + gv.Version
		}
		v3 := read("/openapi/v3/" + root)
		for _, r := range l.APIResources {
			resource, sub, isSub := strings.Cut(r.Name, "/")
			path := "/" + root + "/" + resource
			if r.Namespaced {
				path = "/" + root + "/namespaces/{namespace}/" + resource
			}
			if isSub {
				path += "/{name}/" + sub
			}
			for version, d := range map[string]document{"v2": v2, "v3": v3} {
				if d.Paths[path] == nil {
					t.Errorf("OpenAPI %s lacks the path %s", version, path)
				}
			}
			kind := metav1.GroupVersionKind{Group: gv.Group, Version: gv.Version, Kind: r.Kind}
			if isSub && strings.HasSuffix(r.Kind, "Options") {
				continue // what is connected to takes its options from the query
			}
			if r.Version != "" {
				kind.Group, kind.Version = r.Group, r.Version
			}
			if !has(v2.Definitions, kind) || !has(v3.Components.Schemas, kind) {
				t.Errorf("%s: OpenAPI v2 knows its kind %v: %t, v3: %t", r.Name, kind, has(v2.Definitions, kind), has(v3.Components.Schemas, kind))
			}
		}
	}
}
