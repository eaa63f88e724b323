// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Objects is the storage of nodes or pods.
type Objects interface {
	rest.Getter
	rest.Lister
}

// Install adds the storages of metrics.k8s.io.
func Install(put func(gv schema.GroupVersion, resource string, s rest.Storage), nodes, pods Objects, ask Summary) {
	s := newSource(ask)
	put(metrics.SchemeGroupVersion, "nodes", &nodeMetrics{s, nodes})
	put(metrics.SchemeGroupVersion, "pods", &podMetrics{s, pods})
}

type nodeMetrics struct {
	source *source
	nodes  Objects
}

var (
	_ rest.Getter = &nodeMetrics{}
	_ rest.Lister = &nodeMetrics{}
)

func (m *nodeMetrics) New() runtime.Object     { return &metrics.NodeMetrics{} }
func (m *nodeMetrics) NewList() runtime.Object { return &metrics.NodeMetricsList{} }
func (m *nodeMetrics) Destroy()                {}
func (m *nodeMetrics) NamespaceScoped() bool   { return false }
func (m *nodeMetrics) GetSingularName() string { return "" }

func (m *nodeMetrics) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	obj, err := m.nodes.Get(ctx, name, o)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(metrics.Resource("nodes"), name)
	}
	if err != nil {
		return nil, err
	}
	summary, err := m.source.get(ctx, name)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s does not say what it uses: %v", name, err))
	}
	if out := ofNode(obj.(*corev1.Node), summary); out != nil {
		return out, nil
	}
	return nil, apierrors.NewNotFound(metrics.Resource("nodes"), name)
}

func (m *nodeMetrics) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	found, err := m.nodes.List(ctx, selected(o))
	if err != nil {
		return nil, err
	}
	nodes := found.(*corev1.NodeList).Items
	names := make([]string, len(nodes))
	for i := range nodes {
		names[i] = nodes[i].Name
	}
	said := m.source.all(ctx, names)
	list := &metrics.NodeMetricsList{Items: []metrics.NodeMetrics{}}
	for i := range nodes {
		if out := ofNode(&nodes[i], said[nodes[i].Name]); out != nil {
			list.Items = append(list.Items, *out)
		}
	}
	return list, nil
}

func ofNode(n *corev1.Node, s *statsapi.Summary) *metrics.NodeMetrics {
	if s == nil {
		return nil
	}
	use, at := used(s.Node.CPU, s.Node.Memory)
	if use == nil {
		return nil
	}
	return &metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, CreationTimestamp: metav1.Now()},
		Timestamp:  at, Window: metav1.Duration{Duration: Window}, Usage: use,
	}
}

type podMetrics struct {
	source *source
	pods   Objects
}

var (
	_ rest.Getter = &podMetrics{}
	_ rest.Lister = &podMetrics{}
)

func (m *podMetrics) New() runtime.Object     { return &metrics.PodMetrics{} }
func (m *podMetrics) NewList() runtime.Object { return &metrics.PodMetricsList{} }
func (m *podMetrics) Destroy()                {}
func (m *podMetrics) NamespaceScoped() bool   { return true }
func (m *podMetrics) GetSingularName() string { return "" }

func (m *podMetrics) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	absent := apierrors.NewNotFound(metrics.Resource("pods"), request.NamespaceValue(ctx)+"/"+name)
	obj, err := m.pods.Get(ctx, name, o)
	if apierrors.IsNotFound(err) {
		return nil, absent
	}
	if err != nil {
		return nil, err
	}
	pod := obj.(*corev1.Pod)
	if !running(pod) {
		return nil, absent
	}
	summary, err := m.source.get(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s does not say what its pods use: %v", pod.Spec.NodeName, err))
	}
	if out := ofPod(pod, byUID(summary)[string(pod.UID)]); out != nil {
		return out, nil
	}
	return nil, absent
}

func (m *podMetrics) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	found, err := m.pods.List(ctx, selected(o))
	if err != nil {
		return nil, err
	}
	pods := found.(*corev1.PodList).Items
	var nodes []string
	for i := range pods {
		if running(&pods[i]) {
			nodes = append(nodes, pods[i].Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	said := map[string]*statsapi.PodStats{}
	for _, summary := range m.source.all(ctx, slices.Compact(nodes)) {
		for uid, stats := range byUID(summary) {
			said[uid] = stats
		}
	}
	list := &metrics.PodMetricsList{Items: []metrics.PodMetrics{}}
	for i := range pods {
		if !running(&pods[i]) {
			continue
		}
		if out := ofPod(&pods[i], said[string(pods[i].UID)]); out != nil {
			list.Items = append(list.Items, *out)
		}
	}
	return list, nil
}

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning && p.Spec.NodeName != "" }

func byUID(s *statsapi.Summary) map[string]*statsapi.PodStats {
	out := make(map[string]*statsapi.PodStats, len(s.Pods))
	for i := range s.Pods {
		out[s.Pods[i].PodRef.UID] = &s.Pods[i]
	}
	return out
}

// ofPod returns nil until every container of the pod was measured: half a pod's figures would make an autoscaler believe it idle.
func ofPod(p *corev1.Pod, s *statsapi.PodStats) *metrics.PodMetrics {
	if s == nil || len(s.Containers) == 0 {
		return nil
	}
	out := &metrics.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, Labels: p.Labels, CreationTimestamp: metav1.Now()},
		Window:     metav1.Duration{Duration: Window},
	}
	for _, c := range s.Containers {
		use, at := used(c.CPU, c.Memory)
		if use == nil {
			return nil
		}
		out.Containers = append(out.Containers, metrics.ContainerMetrics{Name: c.Name, Usage: use})
		if out.Timestamp.IsZero() || at.Before(&out.Timestamp) {
			out.Timestamp = at
		}
	}
	slices.SortFunc(out.Containers, func(a, b metrics.ContainerMetrics) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// used returns nil while a kubelet has not measured long enough.
func used(cpu *statsapi.CPUStats, memory *statsapi.MemoryStats) (corev1.ResourceList, metav1.Time) {
	if cpu == nil || cpu.UsageNanoCores == nil || memory == nil || memory.WorkingSetBytes == nil {
		return nil, metav1.Time{}
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(*cpu.UsageNanoCores), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(*memory.WorkingSetBytes), resource.BinarySI),
	}, cpu.Time
}

// selected keeps of a request's options what chooses objects; figures have no versions to continue from.
func selected(o *metainternalversion.ListOptions) *metainternalversion.ListOptions {
	if o == nil {
		return &metainternalversion.ListOptions{}
	}
	return &metainternalversion.ListOptions{LabelSelector: o.LabelSelector, FieldSelector: o.FieldSelector}
}

func (m *nodeMetrics) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return table(object, options, func(o runtime.Object) (string, corev1.ResourceList, time.Duration) {
		n := o.(*metrics.NodeMetrics)
		return n.Name, n.Usage, n.Window.Duration
	})
}

func (m *podMetrics) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return table(object, options, func(o runtime.Object) (string, corev1.ResourceList, time.Duration) {
		p := o.(*metrics.PodMetrics)
		sum := corev1.ResourceList{}
		for _, c := range p.Containers {
			for name, q := range c.Usage {
				total := sum[name]
				total.Add(q)
				sum[name] = total
			}
		}
		return p.Name, sum, p.Window.Duration
	})
}

// table has the columns that metrics-server shows.
func table(object, options runtime.Object, read func(runtime.Object) (string, corev1.ResourceList, time.Duration)) (*metav1.Table, error) {
	t := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		t.ColumnDefinitions = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name"}, {Name: "cpu", Type: "string"}, {Name: "memory", Type: "string"}, {Name: "Window", Type: "string"},
		}
	}
	row := func(obj runtime.Object) error {
		name, use, window := read(obj)
		t.Rows = append(t.Rows, metav1.TableRow{Cells: []any{name, use.Cpu().String(), use.Memory().String(), window.String()}, Object: runtime.RawExtension{Object: obj}})
		return nil
	}
	if meta.IsListType(object) {
		return t, meta.EachListItem(object, row)
	}
	return t, row(object)
}
