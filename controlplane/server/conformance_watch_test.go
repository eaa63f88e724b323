// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead/fairlead/controlplane/store"
)

// TestPublishedWatchesAndLists does what the conformance list says of watches and of lists in chunks, with a store that can be compacted at will.
func TestPublishedWatchesAndLists(t *testing.T) {
	env, stop := start(t, shortDir(t))
	defer stop()
	cfg, err := clientcmd.BuildConfigFromFlags("", env.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	client := kubernetes.NewForConfigOrDie(cfg)
	for name, test := range map[string]func(*testing.T, *rest.Config, kubernetes.Interface){
		"watch-configmaps-with-multiple-watchers":                      selectingWatchers,
		"watch-configmaps-from-resource-version, closed-and-restarted": restartedWatch,
		"watch-consistency": consistentWatches,
		"API Chunking, the original version has been compacted away": func(t *testing.T, cfg *rest.Config, client kubernetes.Interface) {
			compactedList(t, env.Config.Store, client)
		},
		"API Chunking, and all at once": chunksAndWhole,
	} {
		t.Run(name, func(t *testing.T) { test(t, cfg, client) })
	}
}

// nextOf returns the next event, which is of that type, and its ConfigMap.
func nextOf(t *testing.T, w watch.Interface, want watch.EventType) *corev1.ConfigMap {
	t.Helper()
	select {
	case e, open := <-w.ResultChan():
		m, _ := e.Object.(*corev1.ConfigMap)
		if !open || e.Type != want || m == nil {
			t.Fatalf("event %q of %v (watch open: %t), want %s of a ConfigMap", e.Type, e.Object, open, want)
		}
		return m
	case <-time.After(time.Minute):
		t.Fatalf("no event %s within a minute", want)
	}
	panic("not reached")
}

// marked makes a ConfigMap with the label watch=value.
func marked(t *testing.T, client kubernetes.Interface, name, value string) *corev1.ConfigMap {
	t.Helper()
	m, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"watch": value}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func changed(t *testing.T, client kubernetes.Interface, name string, n int) *corev1.ConfigMap {
	t.Helper()
	m, err := client.CoreV1().ConfigMaps("default").Patch(t.Context(), name, types.MergePatchType, []byte(fmt.Sprintf(`{"data":{"n":"%d"}}`, n)), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func unmade(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	if err := client.CoreV1().ConfigMaps("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func selectingWatchers(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	open := func(selector string) watch.Interface {
		w, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	a, b, both := open("watch=a"), open("watch=b"), open("watch in (a,b)")
	marked(t, client, "of-a", "a")
	changed(t, client, "of-a", 1)
	changed(t, client, "of-a", 2)
	unmade(t, client, "of-a")
	marked(t, client, "of-b", "b")
	unmade(t, client, "of-b")
	// The first event of b is of-b's: nothing of of-a came before it.
	for _, w := range []watch.Interface{a, both} {
		nextOf(t, w, watch.Added)
		for _, want := range []string{"1", "2"} {
			if m := nextOf(t, w, watch.Modified); m.Data["n"] != want {
				t.Errorf("the change is to %v, want n=%s", m.Data, want)
			}
		}
		if m := nextOf(t, w, watch.Deleted); m.Data["n"] != "2" {
			t.Errorf("deleted as %v, want the last state", m.Data)
		}
	}
	for _, w := range []watch.Interface{b, both} {
		if m := nextOf(t, w, watch.Added); m.Name != "of-b" {
			t.Errorf("added %s, want of-b", m.Name)
		}
		nextOf(t, w, watch.Deleted)
	}
}

func restartedWatch(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	from := func(version string) watch.Interface {
		w, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{LabelSelector: "watch=restarted", ResourceVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	marked(t, client, "restarted", "restarted")
	first := changed(t, client, "restarted", 1)
	changed(t, client, "restarted", 2)
	w := from(first.ResourceVersion) // in the past: the second change is the first thing seen
	m := nextOf(t, w, watch.Modified)
	if m.Data["n"] != "2" {
		t.Errorf("from %s on the first event is %v, want n=2", first.ResourceVersion, m.Data)
	}
	w.Stop()
	changed(t, client, "restarted", 3)
	unmade(t, client, "restarted")
	w = from(m.ResourceVersion)
	if m := nextOf(t, w, watch.Modified); m.Data["n"] != "3" {
		t.Errorf("restarted, the watch begins with %v, want n=3", m.Data)
	}
	nextOf(t, w, watch.Deleted)
}

// consistentWatches opens a watch at the version of each event of the first one, while somebody writes. All see the same in the same order.
func consistentWatches(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	const writes = 60
	maps := client.CoreV1().ConfigMaps("default")
	open := func(version string) watch.Interface {
		w, err := maps.Watch(t.Context(), metav1.ListOptions{LabelSelector: "watch=order", ResourceVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	list, err := maps.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watches := []watch.Interface{open(list.ResourceVersion)}
	written := make(chan error, 1)
	go func() {
		written <- func() error {
			for i := range writes {
				name := fmt.Sprintf("order-%d", i/3)
				var err error
				switch i % 3 {
				case 0:
					_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"watch": "order"}}}, metav1.CreateOptions{})
				case 1:
					_, err = maps.Patch(t.Context(), name, types.MergePatchType, []byte(`{"data":{"k":"v"}}`), metav1.PatchOptions{})
				default:
					err = maps.Delete(t.Context(), name, metav1.DeleteOptions{})
				}
				if err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	types := []watch.EventType{watch.Added, watch.Modified, watch.Deleted}
	var versions []string
	for i := range writes {
		version := nextOf(t, watches[0], types[i%3]).ResourceVersion
		versions = append(versions, version)
		for j, w := range watches[1:] { // watch j+1 was opened at the version of event j
			if got := nextOf(t, w, types[i%3]).ResourceVersion; got != version {
				t.Fatalf("watch %d has version %s as event %d, the first has %s", j+1, got, i, version)
			}
		}
		watches = append(watches, open(version))
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(versions, func(a, b string) int {
		x, _ := strconv.Atoi(a)
		y, _ := strconv.Atoi(b)
		return x - y
	}) {
		t.Errorf("versions %v are not in order", versions)
	}
}

// templates makes n PodTemplates in a namespace of their own.
func templates(t *testing.T, client kubernetes.Interface, ns string, n int) {
	t.Helper()
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		_, err := client.CoreV1().PodTemplates(ns).Create(t.Context(), &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("template-%04d", i)},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/c"}}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func chunksAndWhole(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	const count, limit = 100, 17
	templates(t, client, "whole", count)
	options, found, version := metav1.ListOptions{Limit: limit}, 0, ""
	for {
		list, err := client.CoreV1().PodTemplates("whole").List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		if version == "" {
			version = list.ResourceVersion
		}
		found += len(list.Items)
		remaining := int64(-1)
		if list.RemainingItemCount != nil {
			remaining = *list.RemainingItemCount
		}
		if len(list.Items) > limit || list.ResourceVersion != version || list.Continue != "" && remaining != int64(count-found) || list.Continue == "" && remaining != -1 {
			t.Errorf("a page of %d at %s with %d remaining, after %d in all at %s", len(list.Items), list.ResourceVersion, remaining, found, version)
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	all, err := client.CoreV1().PodTemplates("whole").List(t.Context(), metav1.ListOptions{})
	if err != nil || found != count || len(all.Items) != count || all.Continue != "" {
		t.Errorf("%d in pages, %d at once (%v), want %d", found, len(all.Items), err, count)
	}
}

// compactedList goes on with a list whose version is compacted away: told so with a token for what is there now, it takes that.
func compactedList(t *testing.T, cfg store.Config, client kubernetes.Interface) {
	const count, limit = 50, 20
	templates(t, client, "compacted", count)
	list, err := client.CoreV1().PodTemplates("compacted").List(t.Context(), metav1.ListOptions{Limit: limit})
	if err != nil || len(list.Items) != limit {
		t.Fatalf("the first page: %v, %v", list, err)
	}
	if err := client.CoreV1().PodTemplates("compacted").Delete(t.Context(), "template-0030", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	etcd, err := store.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	// The API server compacts every five minutes and keeps what it compacted to under this key, from which its watch caches learn it.
	var token string
	soon(t, "the version is compacted away", func() error {
		now, err := etcd.Get(t.Context(), "compact_rev_key")
		if err != nil {
			return err
		}
		if _, err := etcd.Put(t.Context(), "compact_rev_key", strconv.FormatInt(now.Header.Revision, 10)); err != nil {
			return err
		}
		if _, err := etcd.Compact(t.Context(), now.Header.Revision); err != nil {
			return err
		}
		_, err = client.CoreV1().PodTemplates("compacted").List(t.Context(), metav1.ListOptions{Limit: limit, Continue: list.Continue})
		status := apierrors.APIStatus(nil)
		if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) {
			return fmt.Errorf("the second page: %v, want Expired", err)
		}
		token = status.Status().ListMeta.Continue
		return nil
	})
	if token == "" || token == list.Continue {
		t.Fatalf("Expired came with the token %q, want one for the objects that are there now", token)
	}
	options, version := metav1.ListOptions{Limit: limit, Continue: token}, ""
	found := limit
	for options.Continue != "" {
		page, err := client.CoreV1().PodTemplates("compacted").List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		if version == "" {
			version = page.ResourceVersion
		}
		found += len(page.Items)
		if page.ResourceVersion == list.ResourceVersion || page.ResourceVersion != version || len(page.Items) > limit ||
			page.Continue != "" && (page.RemainingItemCount == nil || *page.RemainingItemCount != int64(count-1-found)) {
			text, _ := json.Marshal(page.ListMeta)
			t.Errorf("a page of %d after the compaction, %d in all: %s", len(page.Items), found, text)
		}
		options.Continue = page.Continue
	}
	if found != count-1 {
		t.Errorf("%d were found, want %d: one was deleted between", found, count-1)
	}
}
