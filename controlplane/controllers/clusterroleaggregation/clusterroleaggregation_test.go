// SPDX-License-Identifier: Apache-2.0

package clusterroleaggregation_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/clusterroleaggregation"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

var ctx = context.Background()

func role(name, label string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if label != "" {
		r.Labels = map[string]string{label: "true"}
	}
	for _, v := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"things"}, Verbs: []string{v}})
	}
	return r
}

func aggregate(name, label string, selected ...string) *rbacv1.ClusterRole {
	r := role(name, label, "stale")
	r.AggregationRule = &rbacv1.AggregationRule{}
	for _, s := range selected {
		r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{s: "true"}})
	}
	return r
}

func verbs(w *controllertest.World, name string) string {
	var out []string
	for _, r := range controllertest.Must(w.Client.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})).Rules {
		out = append(out, r.Verbs...)
	}
	return strings.Join(out, " ")
}

func TestWhatAnAggregateHolds(t *testing.T) {
	for _, test := range []struct {
		name string
		objs []runtime.Object
		want string
	}{
		{"the selected roles' rules in the order of names, each once, and none of its own", []runtime.Object{role("b", "x", "get", "list"), role("a", "x", "watch", "get"), role("c", "y", "delete"), aggregate("agg", "", "x")}, "watch get list"},
		{"those of several selectors", []runtime.Object{role("a", "x", "get"), role("b", "y", "list"), aggregate("agg", "", "y", "x")}, "list get"},
		{"an aggregate of an aggregate", []runtime.Object{role("a", "x", "get"), aggregate("inner", "y", "x"), aggregate("agg", "", "y")}, "get"},
		{"nothing when nothing is selected", []runtime.Object{role("a", "x", "get"), aggregate("agg", "", "z")}, ""},
		{"not itself", []runtime.Object{role("a", "x", "get"), aggregate("agg", "x", "x")}, "get"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, test.objs, clusterroleaggregation.New)
				defer w.Close()
				if got := verbs(w, "agg"); got != test.want {
					t.Errorf("%q, want %q", got, test.want)
				}
				if n := w.Writes("update clusterroles"); n > 4 {
					t.Errorf("%d writes", n)
				}
			})
		})
	}
}

func TestAChangedPartChangesTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{role("a", "x", "get"), role("b", "x", "list"), aggregate("agg", "", "x")}, clusterroleaggregation.New)
		defer w.Close()
		a := controllertest.Must(w.Client.RbacV1().ClusterRoles().Get(ctx, "a", metav1.GetOptions{}))
		a.Rules = role("", "", "patch").Rules
		controllertest.Must(w.Client.RbacV1().ClusterRoles().Update(ctx, a, metav1.UpdateOptions{}))
		w.Check(w.Client.RbacV1().ClusterRoles().Delete(ctx, "b", metav1.DeleteOptions{}))
		w.Wait()
		if got := verbs(w, "agg"); got != "patch" {
			t.Errorf("%q, want patch", got)
		}
	})
}
