// SPDX-License-Identifier: Apache-2.0

package resolv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# node\nnameserver 192.0.2.1\nsearch example.org\noptions rotate\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cluster := Cluster{Servers: []string{"192.0.2.53"}, Domain: "c.local", Host: file}
	for name, c := range map[string]struct {
		spec v1.PodSpec
		want string
	}{
		"cluster first":                {v1.PodSpec{DNSPolicy: v1.DNSClusterFirst}, "192.0.2.53|ns.svc.c.local svc.c.local c.local example.org|ndots:5"},
		"host network gets the node's": {v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true}, "192.0.2.1|example.org|rotate"},
		"unless it asks":               {v1.PodSpec{DNSPolicy: v1.DNSClusterFirstWithHostNet, HostNetwork: true}, "192.0.2.53|ns.svc.c.local svc.c.local c.local example.org|ndots:5"},
		"default":                      {v1.PodSpec{DNSPolicy: v1.DNSDefault}, "192.0.2.1|example.org|rotate"},
		"none, with its own": {v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}, Searches: []string{"a.b"},
			Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}, {Name: "edns0"}}}}, "192.0.2.9|a.b|ndots:2 edns0"},
		"options replace": {v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, DNSConfig: &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("1")}}}},
			"192.0.2.53|ns.svc.c.local svc.c.local c.local example.org|ndots:1"},
	} {
		pod := &v1.Pod{Spec: c.spec}
		pod.Namespace = "ns"
		got, err := cluster.For(pod)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join([]string{strings.Join(got.Servers, " "), strings.Join(got.Searches, " "), strings.Join(got.Options, " ")}, "|"); text != c.want {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("nameserver 1.2.3.4\nsearch a b.\noptions x\n")
	f.Fuzz(func(t *testing.T, text string) {
		out := Parse(text)
		if slices.Contains(out.Servers, "") || slices.Contains(out.Options, "") {
			t.Errorf("empty word of %q", text)
		}
	})
}
