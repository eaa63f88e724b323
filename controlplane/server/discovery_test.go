// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
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
