// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// HostPort is a port that a pod occupies on its node.
type HostPort struct {
	Protocol v1.Protocol
	IP       string // "" and "0.0.0.0" mean every address
	Port     int32
}

// Conflicts reports whether two pods cannot have p and o on one node.
func (p HostPort) Conflicts(o HostPort) bool {
	return p.Port == o.Port && p.Protocol == o.Protocol && (p.IP == o.IP || p.IP == anyAddress || o.IP == anyAddress)
}

const anyAddress = "0.0.0.0"

// Shape is what a pod takes from its node and asks of others: the same for all pods with the same spec, so it is computed once and shared.
type Shape struct {
	Request Vector
	Scored  [2]int64
	Ports   []HostPort
	Terms   []Term
}

// Pod is a pod on a node, or nominated to one.
type Pod struct {
	Object   *v1.Pod
	Node     *Node
	Priority int32
	// Assumed is set between the scheduler's decision and the API server's word that the binding is there.
	Assumed bool
	// Evicting is set from the decision to preempt the pod until its deletion is seen.
	Evicting bool

	shape    *Shape
	labels   *LabelSet
	holdings []*Holding
	claims   []string
}

// Shape returns what the pod takes. It must not be changed.
func (p *Pod) Shape() *Shape { return p.shape }

// Shape computes what pod takes from a node.
func (s *State) Shape(pod *v1.Pod) (*Shape, error) {
	shape := s.NodeShape(pod)
	var err error
	shape.Terms, err = Terms(pod)
	return shape, err
}

// NodeShape is Shape without Terms.
func (s *State) NodeShape(pod *v1.Pod) *Shape {
	shape := &Shape{Ports: hostPorts(pod)}
	shape.Request, shape.Scored = s.Resources.requests(pod)
	return shape
}

func hostPorts(pod *v1.Pod) []HostPort {
	var ports []HostPort
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			hp := HostPort{Protocol: p.Protocol, IP: p.HostIP, Port: p.HostPort}
			if hp.Protocol == "" {
				hp.Protocol = v1.ProtocolTCP
			}
			if hp.IP == "" || hp.IP == "::" {
				hp.IP = anyAddress
			}
			ports = append(ports, hp)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

// Done reports whether pod has ended and takes nothing any more.
func Done(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// Assume counts pod on a node before the API server knows: the binding is on its way. shape may be nil.
func (s *State) Assume(pod *v1.Pod, n *Node, shape *Shape) *Pod {
	p := s.place(pod, n, shape)
	p.Assumed = true
	return p
}

// SetPod adds or updates a pod that has a node name. A pod that has ended is taken off its node. An assumed pod becomes a real one.
func (s *State) SetPod(pod *v1.Pod) {
	old := s.pods[pod.UID]
	if Done(pod) || pod.Spec.NodeName == "" {
		if old != nil && !(old.Assumed && pod.Spec.NodeName == "") {
			s.remove(old)
		}
		return
	}
	if old != nil && old.Node.Name == pod.Spec.NodeName {
		before := old.Object
		old.Assumed = false
		sameLabels := maps.Equal(before.Labels, pod.Labels) && (before.DeletionTimestamp == nil) == (pod.DeletionTimestamp == nil)
		if sameLabels && sameAmounts(before, pod) {
			old.Object = pod
			return
		}
	}
	if old != nil {
		s.remove(old)
	}
	s.place(pod, s.node(pod.Spec.NodeName), nil)
}

// sameAmounts reports whether two versions of a pod certainly take the same. The spec's immutable fields need no look.
func sameAmounts(a, b *v1.Pod) bool {
	if a.Generation != b.Generation {
		return false
	}
	same := func(x, y v1.ContainerStatus) bool {
		return x.Resources == y.Resources || x.Resources != nil && y.Resources != nil &&
			maps.EqualFunc(x.Resources.Requests, y.Resources.Requests, equalQuantity) && maps.EqualFunc(x.AllocatedResources, y.AllocatedResources, equalQuantity)
	}
	if len(a.Status.ContainerStatuses) == 0 && len(a.Status.InitContainerStatuses) == 0 && a.Status.Resources == nil && b.Status.Resources == nil {
		// The first report of a kubelet repeats what the spec asks for; only a resize, which has its own conditions, differs.
		return !resizing(b)
	}
	return !resizing(a) && !resizing(b) && slices.EqualFunc(a.Status.ContainerStatuses, b.Status.ContainerStatuses, same) &&
		slices.EqualFunc(a.Status.InitContainerStatuses, b.Status.InitContainerStatuses, same)
}

func resizing(pod *v1.Pod) bool {
	for i := range pod.Status.Conditions {
		if t := pod.Status.Conditions[i].Type; t == v1.PodResizePending || t == v1.PodResizeInProgress {
			return true
		}
	}
	return false
}

// DeletePod removes a pod, also an assumed one. Deleting an absent pod does nothing.
func (s *State) DeletePod(uid types.UID) {
	if p := s.pods[uid]; p != nil {
		s.remove(p)
	}
}

// Pod returns the pod with that UID if it counts on a node, or nil.
func (s *State) Pod(uid types.UID) *Pod { return s.pods[uid] }

func (s *State) place(pod *v1.Pod, n *Node, shape *Shape) *Pod {
	if shape == nil {
		// A selector that does not parse matches nothing; the API server does not let one in.
		shape, _ = s.Shape(pod)
	}
	p := &Pod{Object: pod, Node: n, Priority: corev1helpers.PodPriority(pod), shape: shape,
		labels: s.labelSet(pod.Namespace, pod.Labels, pod.DeletionTimestamp != nil), claims: claimKeys(pod)}
	s.pods[pod.UID] = p
	n.Pods = append(n.Pods, p)
	n.Ports = append(n.Ports, shape.Ports...)
	s.countPod(p.labels, n.Index, 1)
	for i := range shape.Terms {
		h := s.holding(&shape.Terms[i])
		p.holdings = append(p.holdings, h)
		s.hold(h, n.Index, shape.Terms[i].Weight)
	}
	s.take(n, p, 1)
	s.useClaims(n, p, 1)
	s.touch(n.Index)
	return p
}

func (s *State) remove(p *Pod) {
	n := p.Node
	delete(s.pods, p.Object.UID)
	n.Pods = slices.DeleteFunc(n.Pods, func(o *Pod) bool { return o == p })
	for _, port := range p.shape.Ports {
		if i := slices.Index(n.Ports, port); i >= 0 {
			n.Ports = slices.Delete(n.Ports, i, i+1)
		}
	}
	s.countPod(p.labels, n.Index, -1)
	for i, h := range p.holdings {
		s.hold(h, n.Index, -p.shape.Terms[i].Weight)
	}
	s.take(n, p, -1)
	s.useClaims(n, p, -1)
	s.touch(n.Index)
	s.reclaim(n)
	s.compactHoldings()
}

func (s *State) take(n *Node, p *Pod, sign int64) {
	n.Requested = n.Requested.Add(p.shape.Request, sign)
	n.Scored[CPU] += sign * p.shape.Scored[CPU]
	n.Scored[Memory] += sign * p.shape.Scored[Memory]
}

// Nominate notes that pod waits for room on node, which pods of lower priority must not take. A pod is nominated to one node at most.
func (s *State) Nominate(pod *v1.Pod, node string, shape *Shape) {
	s.Denominate(pod.UID)
	n := s.Node(node)
	if n == nil {
		return
	}
	if shape == nil {
		shape, _ = s.Shape(pod)
	}
	p := &Pod{Object: pod, Node: n, Priority: corev1helpers.PodPriority(pod), shape: shape}
	n.Nominated = append(n.Nominated, p)
	s.nominated[pod.UID] = p
	s.touch(n.Index)
}

// Denominate takes a nomination back, if there is one.
func (s *State) Denominate(uid types.UID) {
	p := s.nominated[uid]
	if p == nil {
		return
	}
	delete(s.nominated, uid)
	p.Node.Nominated = slices.DeleteFunc(p.Node.Nominated, func(o *Pod) bool { return o == p })
	s.touch(p.Node.Index)
	s.reclaim(p.Node)
}

// CountedBy reports whether c counts the pod.
func (p *Pod) CountedBy(c *Counter) bool { return slices.Contains(p.labels.counters, c) }

// Weight returns what the pod adds to h.
func (p *Pod) Weight(h *Holding) int64 {
	var sum int64
	for i, held := range p.holdings {
		if held == h {
			sum += p.shape.Terms[i].Weight
		}
	}
	return sum
}

// NominatedTo returns the node that a pod is nominated to, or nil.
func (s *State) NominatedTo(uid types.UID) *Node {
	if p := s.nominated[uid]; p != nil && p.Node.Object != nil {
		return p.Node
	}
	return nil
}
