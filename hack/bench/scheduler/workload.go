// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// workload is one kind of pods on one kind of cluster.
type workload struct {
	name     string
	target   float64 // pods/s, with the API server
	selector bool    // pods belong to a controller, so default topology spread applies
	change   func(p *v1.Pod, i, nodes int)
	prepare  func(n *v1.Node, i int)
	fillers  int // pods of low priority per node that fill it
}

const zones = 5

var workloads = []workload{
	{name: "plain", target: 3000},
	{name: "deployments", target: 3000, selector: true, change: func(p *v1.Pod, i, _ int) { p.Labels = map[string]string{"app": fmt.Sprint("app-", i/500)} }},
	{name: "stateful", target: 1000, selector: false, change: func(p *v1.Pod, i, _ int) {
		p.Labels = map[string]string{"app": fmt.Sprint("app-", i/500), "statefulset.kubernetes.io/pod-name": p.Name}
	}},
	{name: "daemon", target: 1000, change: func(p *v1.Pod, i, nodes int) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: v1.NodeSelectorOpIn,
				Values: []string{nodeName(i % nodes)}}}}}}}}
	}},
	{name: "spread", target: 1000, change: func(p *v1.Pod, i, _ int) {
		p.Labels = map[string]string{"app": "spread"}
		for _, key := range []string{v1.LabelTopologyZone, v1.LabelHostname} {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, v1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: 1,
				WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}})
		}
	}},
	{name: "anti-affinity", target: 1000, change: func(p *v1.Pod, i, _ int) {
		// Ten replicas per application, never two on one node.
		p.Labels = map[string]string{"app": fmt.Sprint("app-", i/10)}
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
			{TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}}}
	}},
	{name: "affinity", target: 1000, change: func(p *v1.Pod, i, _ int) {
		p.Labels = map[string]string{"app": fmt.Sprint("app-", i/1000)}
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
			{TopologyKey: v1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}}}
	}},
	{name: "extended-resource", target: 1000, change: func(p *v1.Pod, i, _ int) {
		p.Spec.Containers[0].Resources.Requests["example.com/device"] = resource.MustParse("1")
	}, prepare: func(n *v1.Node, i int) { n.Status.Allocatable["example.com/device"] = resource.MustParse("16") }},
	{name: "preemption", target: 1000, fillers: 4, change: func(p *v1.Pod, i, _ int) {
		high := int32(1000)
		p.Spec.Priority = &high
		p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("1")
	}, prepare: func(n *v1.Node, i int) { n.Status.Allocatable[v1.ResourceCPU] = resource.MustParse("4") }},
}

// limit is how many pods the workload has room for.
func (w *workload) limit(nodes int) int {
	if w.fillers > 0 {
		return nodes * w.fillers
	}
	return nodes * 20
}

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }

func (w *workload) node(i int) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), UID: types.UID(nodeName(i)), Labels: map[string]string{
			v1.LabelHostname: nodeName(i), v1.LabelTopologyZone: fmt.Sprint("zone-", i%zones), v1.LabelTopologyRegion: "region"}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("32"), v1.ResourceMemory: resource.MustParse("256Gi"),
			v1.ResourcePods: resource.MustParse("110"), v1.ResourceEphemeralStorage: resource.MustParse("500Gi")},
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
	}
	if w.prepare != nil {
		w.prepare(n, i)
	}
	n.Status.Capacity = n.Status.Allocatable
	return n
}

func (w *workload) base(name string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), CreationTimestamp: metav1.Time{Time: time.Now()}},
		Spec: v1.PodSpec{SchedulerName: v1.DefaultSchedulerName, Containers: []v1.Container{{Name: "main", Image: "registry.example/pause:1",
			Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("128Mi")}}}}},
	}
}

// pod is the i-th pod on a cluster of nodes nodes.
func (w *workload) pod(i, nodes int) *v1.Pod {
	p := w.base(fmt.Sprintf("%s-%06d", w.name, i))
	if w.change != nil {
		w.change(p, i, nodes)
	}
	return p
}

func (w *workload) existing(nodes int) int { return w.fillers * nodes }

// filler is a running pod of low priority; fillers of them fill a node.
func (w *workload) filler(i, nodes int) *v1.Pod {
	p := w.base(fmt.Sprintf("filler-%06d", i))
	low := int32(0)
	p.Spec.Priority = &low
	p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("1")
	p.Spec.NodeName = nodeName(i % nodes)
	p.Labels = map[string]string{"filler": "yes"}
	return p
}
