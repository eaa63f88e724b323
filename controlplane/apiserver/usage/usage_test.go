// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// nodes and pods stand for the storages of those kinds.
type nodes []corev1.Node

func (n nodes) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if i := slices.IndexFunc(n, func(n corev1.Node) bool { return n.Name == name }); i >= 0 {
		return &n[i], nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
}
func (n nodes) NewList() runtime.Object { return &corev1.NodeList{} }
func (n nodes) List(_ context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	out := &corev1.NodeList{}
	for _, n := range n {
		if o.LabelSelector == nil || o.LabelSelector.Matches(labels.Set(n.Labels)) {
			out.Items = append(out.Items, n)
		}
	}
	return out, nil
}
func (n nodes) ConvertToTable(context.Context, runtime.Object, runtime.Object) (*metav1.Table, error) {
	return nil, nil
}

type pods []corev1.Pod

func (p pods) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if i := slices.IndexFunc(p, func(p corev1.Pod) bool { return p.Name == name }); i >= 0 {
		return &p[i], nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}
func (p pods) NewList() runtime.Object { return &corev1.PodList{} }
func (p pods) List(context.Context, *metainternalversion.ListOptions) (runtime.Object, error) {
	return &corev1.PodList{Items: p}, nil
}
func (p pods) ConvertToTable(context.Context, runtime.Object, runtime.Object) (*metav1.Table, error) {
	return nil, nil
}

func node(name, zone string) corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": zone}}}
}

func pod(name, node string, phase corev1.PodPhase) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid of " + name)},
		Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
	}
}

func cpu(nano uint64) *statsapi.CPUStats {
	return &statsapi.CPUStats{Time: metav1.Now(), UsageNanoCores: &nano}
}
func memory(b uint64) *statsapi.MemoryStats {
	return &statsapi.MemoryStats{Time: metav1.Now(), WorkingSetBytes: &b}
}

func container(name string, nano, bytes uint64) statsapi.ContainerStats {
	return statsapi.ContainerStats{Name: name, CPU: cpu(nano), Memory: memory(bytes)}
}

// kubelets answers for nodes and counts how often each was asked.
type kubelets struct {
	mu    sync.Mutex
	asked map[string]int
	say   map[string]*statsapi.Summary
}

func (k *kubelets) ask(_ context.Context, node string) (*statsapi.Summary, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked[node]++
	if s := k.say[node]; s != nil {
		return s, nil
	}
	return nil, errors.New("no route to host")
}

func storages(n nodes, p pods, say map[string]*statsapi.Summary) (nodes, pods interface {
	rest.Getter
	rest.Lister
}, k *kubelets) {
	k = &kubelets{asked: map[string]int{}, say: say}
	s := newSource(k.ask)
	return &nodeMetrics{s, n}, &podMetrics{s, p}, k
}

func TestNodesSayWhatTheyUse(t *testing.T) {
	n, _, _ := storages(nodes{node("a", "x"), node("b", "x"), node("c", "y"), node("new", "x")}, nil, map[string]*statsapi.Summary{
		"a":   {Node: statsapi.NodeStats{CPU: cpu(250_000_000), Memory: memory(3 << 20)}},
		"c":   {Node: statsapi.NodeStats{CPU: cpu(1), Memory: memory(1)}},
		"new": {Node: statsapi.NodeStats{Memory: memory(1)}}, // its processors were not measured long enough
	})
	selector, _ := labels.Parse("zone=x")
	got, err := n.List(t.Context(), &metainternalversion.ListOptions{LabelSelector: selector, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	items := got.(*metrics.NodeMetricsList).Items
	if len(items) != 1 || items[0].Name != "a" || items[0].Usage.Cpu().String() != "250m" || items[0].Usage.Memory().String() != "3Mi" || items[0].Labels["zone"] != "x" {
		t.Errorf("got %+v; want node a alone: b does not answer, c is in another zone, the new one was not measured yet", items)
	}
	if _, err := n.Get(t.Context(), "b", nil); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("a node that does not answer: %v, want 503", err)
	}
	if _, err := n.Get(t.Context(), "zzz", nil); !apierrors.IsNotFound(err) {
		t.Errorf("a node that does not exist: %v, want 404", err)
	}
}

func TestPodsSayWhatTheyUse(t *testing.T) {
	list := pods{pod("web", "a", corev1.PodRunning), pod("half", "a", corev1.PodRunning), pod("done", "a", corev1.PodSucceeded), pod("waiting", "", corev1.PodPending)}
	_, p, _ := storages(nil, list, map[string]*statsapi.Summary{"a": {Pods: []statsapi.PodStats{
		{PodRef: statsapi.PodReference{UID: "uid of web"}, Containers: []statsapi.ContainerStats{container("z", 5_000_000, 1<<20), container("b", 1_000_000, 2<<20)}},
		{PodRef: statsapi.PodReference{UID: "uid of half"}, Containers: []statsapi.ContainerStats{container("one", 1, 1), {Name: "two"}}},
		{PodRef: statsapi.PodReference{UID: "uid of done"}, Containers: []statsapi.ContainerStats{container("one", 1, 1)}},
		{PodRef: statsapi.PodReference{UID: "of another pod of the same name"}, Containers: []statsapi.ContainerStats{container("one", 1, 1)}},
	}}})
	ctx := request.WithNamespace(t.Context(), "ns")
	got, err := p.List(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	items := got.(*metrics.PodMetricsList).Items
	if len(items) != 1 || items[0].Name != "web" || len(items[0].Containers) != 2 || items[0].Containers[0].Name != "b" || items[0].Containers[1].Usage.Cpu().String() != "5m" {
		t.Errorf("got %+v; want web alone, its containers by name", items)
	}
	table, err := p.ConvertToTable(ctx, got, nil)
	if err != nil || len(table.Rows) != 1 || table.Rows[0].Cells[1] != "6m" || table.Rows[0].Cells[2] != "3Mi" {
		t.Errorf("table %+v, %v; want the sum of the containers", table, err)
	}
	for _, name := range []string{"half", "done", "waiting", "absent"} {
		if _, err := p.Get(ctx, name, nil); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v, want 404", name, err)
		}
	}
}

func TestAKubeletIsAskedOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, k := storages(nodes{node("a", "x"), node("dead", "x")}, nil, map[string]*statsapi.Summary{"a": {Node: statsapi.NodeStats{CPU: cpu(1), Memory: memory(1)}}})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := n.List(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if k.asked["a"] != 1 {
			t.Errorf("20 requests at once asked the kubelet %d times, want once", k.asked["a"])
		}
		time.Sleep(fresh + time.Second)
		if _, err := n.List(t.Context(), nil); err != nil || k.asked["a"] != 2 {
			t.Errorf("old figures: %v, asked %d times, want them asked for again", err, k.asked["a"])
		}
		if k.asked["dead"] < 2 {
			t.Error("a node that did not answer was not asked again")
		}
	})
}

func TestNodesThatNobodyAsksForAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := &statsapi.Summary{}
		s := newSource(func(context.Context, string) (*statsapi.Summary, error) { return answer, nil })
		ask := func(node string) {
			if _, err := s.get(t.Context(), node); err != nil {
				t.Fatal(err)
			}
		}
		ask("gone")
		time.Sleep(forgetAfter / 2)
		ask("here")
		time.Sleep(forgetAfter/2 + time.Second)
		ask("new")
		if _, kept := s.nodes["gone"]; kept || len(s.nodes) != 2 {
			t.Errorf("%d nodes are remembered, want those asked for of late: here and new", len(s.nodes))
		}
	})
}
