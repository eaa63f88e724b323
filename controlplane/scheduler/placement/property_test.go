// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// model is the truth: the objects themselves. From it a fresh State is computed, and the incremental one must say the same.
type model struct {
	rand       *rand.Rand
	nodes      map[string]*v1.Node
	pods       map[types.UID]*v1.Pod // with node names
	namespaces map[string]map[string]string
	next       int
}

func (m *model) fresh() *Evaluator {
	state := cluster.New()
	for name, labels := range m.namespaces {
		state.SetNamespace(name, labels)
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		state.SetNode(m.nodes[name])
	}
	for _, uid := range slices.Sorted(maps.Keys(m.pods)) {
		state.SetPod(m.pods[uid])
	}
	return New(state)
}

func (m *model) one(of ...string) string { return of[m.rand.IntN(len(of))] }

func (m *model) node(name string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse(m.one("1", "2", "4")), v1.ResourceMemory: resource.MustParse("4Gi"),
			v1.ResourcePods: resource.MustParse(m.one("3", "20"))}}}
	if m.rand.IntN(5) > 0 {
		n.Labels[v1.LabelTopologyZone] = m.one("a", "b", "c")
	}
	if m.rand.IntN(4) == 0 {
		n.Labels["disk"] = m.one("ssd", "hdd")
	}
	if m.rand.IntN(5) == 0 {
		n.Spec.Taints = []v1.Taint{{Key: "t", Value: m.one("x", "y"), Effect: v1.TaintEffect(m.one("NoSchedule", "PreferNoSchedule"))}}
	}
	n.Spec.Unschedulable = m.rand.IntN(10) == 0
	if m.rand.IntN(3) == 0 {
		n.Status.Images = []v1.ContainerImage{{Names: []string{"image:1"}, SizeBytes: 500 << 20}}
	}
	if m.rand.IntN(3) == 0 {
		n.Annotations = map[string]string{cluster.PressureAnnotation: m.one("cpu=50,memory=0,io=1", "memory=30", "cpu=1000", "nonsense")}
	}
	return n
}

func (m *model) term() v1.PodAffinityTerm {
	t := v1.PodAffinityTerm{TopologyKey: m.one(v1.LabelHostname, v1.LabelTopologyZone),
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": m.one("a", "b", "c")}}}
	switch m.rand.IntN(5) {
	case 0:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": m.one("red", "blue")}}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{}
	case 2:
		t.LabelSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}}}
	}
	return t
}

func (m *model) pod() *v1.Pod {
	m.next++
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.one("default", "other"), Name: fmt.Sprint("pod-", m.next), UID: types.UID(fmt.Sprintf("%06d", m.next)),
		Labels: map[string]string{"app": m.one("a", "b", "c")}},
		Spec: v1.PodSpec{Containers: []v1.Container{{Image: m.one("image:1", "image:2"), Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse(m.one("100m", "500m", "1500m"))}}}}}}
	if m.rand.IntN(6) == 0 {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80, Protocol: v1.ProtocolTCP}}
	}
	if m.rand.IntN(5) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if m.rand.IntN(4) == 0 {
		p.Spec.Tolerations = []v1.Toleration{{Key: "t", Operator: v1.TolerationOpExists}}
	}
	affinity := &v1.Affinity{PodAffinity: &v1.PodAffinity{}, PodAntiAffinity: &v1.PodAntiAffinity{}}
	for range m.rand.IntN(3) {
		weighted := v1.WeightedPodAffinityTerm{Weight: int32(1 + m.rand.IntN(100)), PodAffinityTerm: m.term()}
		switch m.rand.IntN(5) {
		case 0:
			affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, m.term())
		case 1:
			affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, m.term())
		case 2:
			affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted)
		case 3:
			affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted)
		}
	}
	if m.rand.IntN(3) == 0 {
		affinity.NodeAffinity = &v1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.PreferredSchedulingTerm{{Weight: 10,
			Preference: v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "disk", Operator: v1.NodeSelectorOpExists}}}}}}
	}
	p.Spec.Affinity = affinity
	for range m.rand.IntN(3) {
		minDomains := int32(1 + m.rand.IntN(3))
		c := v1.TopologySpreadConstraint{TopologyKey: m.one(v1.LabelHostname, v1.LabelTopologyZone), MaxSkew: int32(1 + m.rand.IntN(2)),
			WhenUnsatisfiable: v1.UnsatisfiableConstraintAction(m.one("DoNotSchedule", "ScheduleAnyway")),
			LabelSelector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": m.one("a", "b", "c")}}}
		if c.WhenUnsatisfiable == v1.DoNotSchedule {
			c.MinDomains = &minDomains
		}
		if m.rand.IntN(3) == 0 {
			honor := v1.NodeInclusionPolicyHonor
			c.NodeTaintsPolicy = &honor
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
	return p
}

func (m *model) anyNode() string {
	names := slices.Sorted(maps.Keys(m.nodes))
	if len(names) == 0 || m.rand.IntN(20) == 0 {
		return "nowhere" // a pod may name a node that does not exist (yet)
	}
	return names[m.rand.IntN(len(names))]
}

func (m *model) anyPod() *v1.Pod {
	uids := slices.Sorted(maps.Keys(m.pods))
	if len(uids) == 0 {
		return nil
	}
	return m.pods[uids[m.rand.IntN(len(uids))]]
}

// step makes one random event happen to the truth and to the incremental state.
func (m *model) step(state *cluster.State) string {
	switch m.rand.IntN(12) {
	case 0, 1:
		n := m.node(fmt.Sprint("n", m.rand.IntN(12)))
		m.nodes[n.Name] = n
		state.SetNode(n)
		return "set node " + n.Name
	case 2:
		name := m.anyNode()
		delete(m.nodes, name)
		state.DeleteNode(name)
		return "delete node " + name
	case 3, 4, 5:
		p := m.pod()
		if m.rand.IntN(2) == 0 { // first assumed, then confirmed
			n := state.Node(m.anyNode())
			if n == nil {
				return "nothing"
			}
			state.Assume(p, n, nil)
			p = p.DeepCopy()
			p.Spec.NodeName = n.Name
		} else {
			p.Spec.NodeName = m.anyNode()
		}
		m.pods[p.UID] = p
		state.SetPod(p)
		return "pod " + p.Name + " on " + p.Spec.NodeName
	case 6:
		p := m.pod()
		if n := state.Node(m.anyNode()); n != nil { // assumed, then forgotten: the binding failed
			state.Assume(p, n, nil)
			state.DeletePod(p.UID)
		}
		return "failed binding"
	case 7, 8:
		if p := m.anyPod(); p != nil {
			delete(m.pods, p.UID)
			state.DeletePod(p.UID)
			return "delete pod " + p.Name
		}
	case 9:
		if p := m.anyPod(); p != nil {
			p = p.DeepCopy()
			p.Labels = map[string]string{"app": m.one("a", "b", "c")}
			m.pods[p.UID] = p
			state.SetPod(p)
			return "relabel pod " + p.Name
		}
	case 10:
		if p := m.anyPod(); p != nil {
			p = p.DeepCopy()
			if m.rand.IntN(2) == 0 {
				p.Status.Phase = v1.PodSucceeded
				delete(m.pods, p.UID)
			} else {
				now := metav1.Now()
				p.DeletionTimestamp = &now
				m.pods[p.UID] = p
			}
			state.SetPod(p)
			return "end pod " + p.Name
		}
	case 11:
		name, labels := m.one("default", "other"), map[string]string{"team": m.one("red", "blue")}
		m.namespaces[name] = labels
		state.SetNamespace(name, labels)
		return "label namespace " + name
	}
	return "nothing"
}

// rowsByNode makes rows comparable. Domains without a place are the same as none.
func rowsByNode(t *testing.T, e *Evaluator, p *v1.Pod, profile *Profile) map[string]string {
	t.Helper()
	rows, blocked := e.Explain(e.Classify(p, profile))
	out := map[string]string{"": blocked}
	for _, r := range rows {
		out[r.Node] = fmt.Sprint(r.Plugin, r.Reasons, r.Total)
		for _, plugin := range Plugins() {
			out[r.Node] += fmt.Sprint(" ", r.Scores[plugin])
		}
	}
	return out
}

func TestIncrementalStateSaysWhatAFreshOneWouldAfterAnyEvents(t *testing.T) {
	for seed := range uint64(40) {
		m := &model{rand: rand.New(rand.NewPCG(seed, 1)), nodes: map[string]*v1.Node{}, pods: map[types.UID]*v1.Pod{}, namespaces: map[string]map[string]string{}}
		state := cluster.New()
		e := New(state)
		e.MaxViews = 8 // so that Views are dropped and built again, too
		profile := DefaultProfile()
		var asked []*v1.Pod
		for range 12 {
			asked = append(asked, m.pod())
		}
		var history []string
		for step := range 150 {
			history = append(history, m.step(state))
			for range m.rand.IntN(3) {
				p := asked[m.rand.IntN(len(asked))]
				got, want := rowsByNode(t, e, p, profile), rowsByNode(t, m.fresh(), p, profile)
				if !reflect.DeepEqual(got, want) {
					for node := range want {
						if got[node] != want[node] {
							t.Errorf("node %q says\n  %s, want\n  %s", node, got[node], want[node])
						}
					}
					t.Fatalf("seed %d, step %d, pod %s; the last events: %v", seed, step, p.Name, history[max(0, len(history)-6):])
				}
			}
		}
	}
}
