// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"slices"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	o, err := Options(Config{Enable: []string{"AlwaysPullImages"}, Disable: []string{"PodSecurity"}})
	if err != nil {
		t.Fatal(err)
	}
	if o.RecommendedPluginOrder[0] != "NamespaceLifecycle" || o.RecommendedPluginOrder[len(o.RecommendedPluginOrder)-1] != "ResourceQuota" {
		t.Errorf("order %q: a namespace in deletion must be seen first, and quota charged last", o.RecommendedPluginOrder)
	}
	webhooks := slices.Index(o.RecommendedPluginOrder, "MutatingAdmissionWebhook")
	for _, p := range []string{"ServiceAccount", "LimitRanger", "Priority", "DefaultStorageClass"} {
		if i := slices.Index(o.RecommendedPluginOrder, p); i < 0 || i > webhooks {
			t.Errorf("%s does not run before webhooks", p)
		}
	}
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"an unknown plugin", Config{Enable: []string{"Nope"}}, `"Nope" is unknown`},
		{"an unknown plugin to disable", Config{Disable: []string{"Nope"}}, `"Nope" is unknown`},
		{"on and off at once", Config{Enable: []string{"Priority"}, Disable: []string{"Priority"}}, "overlapped"},
		{"the guard of roles", Config{Disable: []string{"RBACEscalation"}}, "cannot be disabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Options(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
