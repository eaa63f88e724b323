// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var things = schema.GroupVersionResource{Group: "t", Version: "v1", Resource: "things"}

// recorder is a graph whose queues are lists.
type recorder struct {
	*graph
	checked, orphaned []string
}

func newRecorder() *recorder {
	r := &recorder{}
	r.graph = newGraph(func(u types.UID) { r.checked = append(r.checked, string(u)) }, func(u types.UID) { r.orphaned = append(r.orphaned, string(u)) })
	return r
}

// took returns what was put into the check queue since the last call, sorted and each once.
func (r *recorder) took() string {
	out := slices.Clone(r.checked)
	r.checked = nil
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

func thing(name string, change func(*metav1.ObjectMeta), owners ...string) *metav1.PartialObjectMetadata {
	m := metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)}
	for _, o := range owners {
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "t/v1", Kind: "Thing", Name: o, UID: types.UID(o), BlockOwnerDeletion: ptr.To(true)})
	}
	if change != nil {
		change(&m)
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: m}
}

func deleting(finalizers ...string) func(*metav1.ObjectMeta) {
	return func(m *metav1.ObjectMeta) {
		now := metav1.Now()
		m.DeletionTimestamp, m.Finalizers = &now, finalizers
	}
}

func TestDependentsAreCheckedWhenTheirOwnerGoes(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("owner", nil))
	g.observe(things, thing("a", nil, "owner"))
	g.observe(things, thing("b", nil, "owner"))
	g.observe(things, thing("other", nil))
	if got := g.took(); got != "" {
		t.Errorf("checked %q before anything went", got)
	}
	g.gone("owner")
	if got := g.took(); got != "a b" {
		t.Errorf("checked %q, want a b", got)
	}
}

func TestAnOwnerNobodyHasSeenIsVerified(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("a", nil, "owner"))
	if got := g.took(); got != "owner" {
		t.Errorf("checked %q, want owner", got)
	}
	if v, ok := g.get("owner"); !ok || !v.virtual || v.gvk.Kind != "Thing" {
		t.Errorf("the owner is %+v", v)
	}
	g.observe(things, thing("owner", nil))
	if v, _ := g.get("owner"); v.virtual || len(v.dependents) != 1 {
		t.Errorf("after it was seen the owner is %+v", v)
	}
}

func TestForegroundDeletionChecksDependentsAndComesBackWhenTheyGo(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("owner", nil))
	g.observe(things, thing("a", nil, "owner"))
	g.observe(things, thing("owner", deleting(metav1.FinalizerDeleteDependents)))
	if got := g.took(); got != "a owner" {
		t.Errorf("checked %q, want a owner", got)
	}
	g.gone("a")
	if got := g.took(); got != "owner" {
		t.Errorf("checked %q, want owner", got)
	}
}

func TestADependentThatStopsBlockingFreesItsOwner(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("owner", deleting(metav1.FinalizerDeleteDependents)))
	g.observe(things, thing("a", nil, "owner"))
	g.took()
	g.observe(things, thing("a", func(m *metav1.ObjectMeta) { m.OwnerReferences[0].BlockOwnerDeletion = ptr.To(false) }, "owner"))
	if got := g.took(); got != "owner" {
		t.Errorf("checked %q, want owner", got)
	}
}

func TestOrphanFinalizerGoesToTheOtherQueue(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("owner", nil))
	g.observe(things, thing("owner", deleting(metav1.FinalizerOrphanDependents)))
	g.observe(things, thing("owner", deleting(metav1.FinalizerOrphanDependents)))
	if len(g.orphaned) != 1 || g.orphaned[0] != "owner" {
		t.Errorf("orphaned %v, want owner once", g.orphaned)
	}
}

func TestAListThatMissesAnObjectMeansItIsGone(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("owner", nil))
	g.observe(things, thing("a", nil, "owner"))
	g.replace(things, []metav1.Object{thing("a", nil, "owner")})
	if got := g.took(); got != "a" {
		t.Errorf("checked %q, want a", got)
	}
}

func TestCirclesOfOwnersAreFinite(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("a", nil, "b"))
	g.observe(things, thing("b", nil, "a"))
	g.took()
	g.observe(things, thing("a", deleting(metav1.FinalizerDeleteDependents), "b"))
	g.observe(things, thing("b", deleting(metav1.FinalizerDeleteDependents), "a"))
	if n := len(g.checked); n > 10 {
		t.Errorf("%d checks for a circle of two", n)
	}
	g.gone("a")
	g.gone("b")
	if _, ok := g.get("a"); ok {
		if v, _ := g.get("a"); !v.virtual {
			t.Error("a is still there")
		}
	}
}

func TestAReferenceToAnotherNamespaceIsChecked(t *testing.T) {
	g := newRecorder()
	g.observe(things, thing("owner", nil))
	g.observe(things, thing("a", func(m *metav1.ObjectMeta) { m.Namespace = "elsewhere" }, "owner"))
	if got := g.took(); got != "a" {
		t.Errorf("checked %q, want a: an owner must be in the same namespace", got)
	}
}
