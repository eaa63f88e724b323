// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/fairlead/fairlead/hack/await"
)

// withoutConditions are the kinds whose status has no conditions like metav1.Condition, or none that anybody may add.
var withoutConditions = map[string]bool{
	"CronJob": true, "HorizontalPodAutoscaler": true, "Ingress": true, "PersistentVolume": true, "PodCertificateRequest": true, "ResourceClaim": true, "ResourceQuota": true,
	"VolumeAttachment": true,
}

// TestEveryVerbOnEveryKind does what the entries "... API", "... API operations", "... lifecycle" and "..., delete a collection" of Kubernetes' conformance
// list describe, on every kind that discovery shows: create, get, list by label in one and in all namespaces, watch, patch, update, get, patch and update of
// the status, delete, deletecollection; the watch sees each in order.
func TestEveryVerbOnEveryKind(t *testing.T) {
	env, stop := start(t, shortDir(t))
	defer stop()
	client, dyn := kubernetes.NewForConfigOrDie(env.Client), dynamic.NewForConfigOrDie(env.Client)
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err) // a controller's work, and there is none here: without it no pod is admitted
	}
	samples := readSamples(t)
	_, lists, err := client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	walked := 0
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "create") || !slices.Contains(r.Verbs, "get") {
				continue
			}
			walked++
			t.Run(list.GroupVersion+"/"+r.Name, func(t *testing.T) {
				sample := samples[list.GroupVersion+" "+r.Kind].DeepCopy()
				sample.SetLabels(merge(sample.GetLabels(), "verbs", "every"))
				v := verbs{resource: r, all: dyn.Resource(gv.WithResource(r.Name)), sample: sample, client: client}
				v.one = v.all
				if r.Namespaced {
					v.one = dyn.Resource(gv.WithResource(r.Name)).Namespace("default")
				}
				v.hasStatus = slices.ContainsFunc(list.APIResources, func(s metav1.APIResource) bool { return s.Name == r.Name+"/status" })
				v.walk(t)
			})
		}
	}
	if walked < 60 {
		t.Errorf("discovery shows %d kinds that can be written", walked)
	}
}

// verbs is one kind's walk: one are its objects in the sample's namespace, all those of the cluster.
type verbs struct {
	resource  metav1.APIResource
	one, all  dynamic.ResourceInterface
	sample    *unstructured.Unstructured
	hasStatus bool
	client    kubernetes.Interface
}

var ofTheWalk = metav1.ListOptions{LabelSelector: "verbs=every"}

func (v verbs) walk(t *testing.T) {
	ctx := t.Context()
	before, err := v.all.List(ctx, ofTheWalk)
	if err != nil || len(before.Items) != 0 {
		t.Fatalf("before the first: %v, %v", before, err)
	}
	from := ofTheWalk
	from.ResourceVersion = before.GetResourceVersion()
	w, err := v.one.Watch(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()

	made, err := v.one.Create(ctx, v.sample, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := made.GetName()
	got, err := v.one.Get(ctx, name, metav1.GetOptions{})
	if err != nil || got.GetUID() != made.GetUID() {
		t.Fatalf("read what was made: %v, %v", got, err)
	}
	for where, objects := range map[string]dynamic.ResourceInterface{"its namespace": v.one, "the cluster": v.all} {
		if list, err := objects.List(ctx, ofTheWalk); err != nil || len(list.Items) != 1 || list.Items[0].GetUID() != made.GetUID() {
			t.Errorf("listed by label in %s: %v, %v", where, list, err)
		}
	}
	patched, err := v.one.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}}}`), metav1.PatchOptions{})
	if err != nil || patched.GetAnnotations()["patched"] != "yes" {
		t.Errorf("patched: %v, %v", patched, err)
	}
	v.update(t, "", func(u *unstructured.Unstructured) { u.SetAnnotations(merge(u.GetAnnotations(), "updated", "yes")) })
	if got, err = v.one.Get(ctx, name, metav1.GetOptions{}); err != nil || got.GetAnnotations()["updated"] != "yes" || got.GetAnnotations()["patched"] != "yes" {
		t.Errorf("after patch and update: %v, %v", got, err)
	}
	if v.hasStatus {
		v.status(t)
	}
	v.delete(t)
	var seen []watch.EventType
	for !slices.Contains(seen, watch.Deleted) {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				t.Fatalf("the watch ended after %v", seen)
			}
			if last := len(seen) - 1; last < 0 || seen[last] != e.Type {
				seen = append(seen, e.Type)
			}
		case <-time.After(time.Minute):
			t.Fatalf("the watch saw %v only within a minute", seen)
		}
	}
	if !slices.Equal(seen, []watch.EventType{watch.Added, watch.Modified, watch.Deleted}) {
		t.Errorf("the watch saw %v, want Added, Modified, Deleted", seen)
	}
	v.deleteAll(t)
}

// update changes the object, or what of it the subresource holds, until nobody else wrote in between.
func (v verbs) update(t *testing.T, subresource string, change func(*unstructured.Unstructured)) {
	t.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		u, err := v.one.Get(t.Context(), v.sample.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(u)
		if subresource == "" {
			_, err = v.one.Update(t.Context(), u, metav1.UpdateOptions{})
		} else {
			_, err = v.one.Update(t.Context(), u, metav1.UpdateOptions{}, subresource)
		}
		return err
	})
	if err != nil {
		t.Errorf("update %s: %v", subresource, err)
	}
}

func conditionsOf(u *unstructured.Unstructured) (types []string) {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		types = append(types, fmt.Sprint(c.(map[string]any)["type"]))
	}
	return types
}

// status reads, patches and updates the status.
func (v verbs) status(t *testing.T) {
	ctx, name := t.Context(), v.sample.GetName()
	got, err := v.one.Get(ctx, name, metav1.GetOptions{}, "status")
	if err != nil || got.GetKind() != v.sample.GetKind() {
		t.Errorf("status: %v, %v", got, err)
	}
	const patch = `{"status":{"conditions":[{"type":"Patched","status":"True","reason":"Tested","message":"by a test","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	// A controller of the server may write its own condition between patch and look; it does so once.
	await.Nil(t, time.Minute, func() error {
		if _, err := v.one.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
		if got, err := v.one.Get(ctx, name, metav1.GetOptions{}, "status"); !withoutConditions[v.resource.Kind] && (err != nil || !slices.Contains(conditionsOf(got), "Patched")) {
			return fmt.Errorf("after a patch of the status its conditions are %v (%v)", conditionsOf(got), err)
		}
		return nil
	})
	v.update(t, "status", func(u *unstructured.Unstructured) {
		if withoutConditions[v.resource.Kind] {
			return
		}
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		conditions = append(conditions, map[string]any{"type": "Updated", "status": "True", "reason": "Tested", "message": "by a test", "lastTransitionTime": "2026-01-01T00:00:00Z"})
		if err := unstructured.SetNestedSlice(u.Object, conditions, "status", "conditions"); err != nil {
			t.Fatal(err)
		}
	})
	if got, err := v.one.Get(ctx, name, metav1.GetOptions{}, "status"); !withoutConditions[v.resource.Kind] && (err != nil || !slices.Contains(conditionsOf(got), "Updated")) {
		t.Errorf("after an update of the status its conditions are %v (%v)", conditionsOf(got), err)
	}
}

// unhold plays the controllers that let go of an object which is being deleted.
func (v verbs) unhold(ctx context.Context, name string) error {
	u, err := v.one.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.resource.Kind == "Namespace" {
		_, err = v.client.CoreV1().Namespaces().Finalize(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.UpdateOptions{})
	} else if len(u.GetFinalizers()) > 0 {
		_, err = v.one.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	}
	return errors.Join(err, fmt.Errorf("%s is still there", name))
}

func (v verbs) delete(t *testing.T) {
	t.Helper()
	name := v.sample.GetName()
	if err := v.one.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await.Nil(t, time.Minute, func() error { return v.unhold(t.Context(), name) })
}

func (v verbs) deleteAll(t *testing.T) {
	if !slices.Contains(v.resource.Verbs, "deletecollection") {
		return
	}
	ctx := t.Context()
	await.Nil(t, time.Minute, func() error { // what follows from an object, such as the paths of a definition, may still be going
		_, err := v.one.Create(ctx, v.sample, metav1.CreateOptions{})
		return err
	})
	if err := v.one.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "verbs=none"}); err != nil {
		t.Errorf("delete a collection of none: %v", err)
	}
	if _, err := v.one.Get(ctx, v.sample.GetName(), metav1.GetOptions{}); err != nil {
		t.Errorf("what the selector did not match: %v", err)
	}
	if err := v.one.DeleteCollection(ctx, metav1.DeleteOptions{}, ofTheWalk); err != nil {
		t.Errorf("delete a collection: %v", err)
	}
	await.Nil(t, time.Minute, func() error { return v.unhold(ctx, v.sample.GetName()) })
	if list, err := v.all.List(ctx, ofTheWalk); err != nil || len(list.Items) != 0 {
		t.Errorf("after the deletion of all: %v, %v", list, err)
	}
}
