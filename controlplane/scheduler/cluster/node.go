// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Node is one node and what its pods take from it.
type Node struct {
	Index int32
	Name  string
	// Object is nil for a node that pods name but that does not exist (yet, or any more).
	Object      *v1.Node
	Allocatable Vector
	Pressure    Pressure
	// Version changes whenever Object changes in a way that filters or scores can see; what follows from Object alone may be kept until then.
	Version uint64

	Requested Vector
	Scored    [2]int64 // CPU and memory requests, with defaults for containers that have none
	Pods      []*Pod
	Ports     []HostPort
	Nominated []*Pod         // pods that preempted here and wait for the room
	claims    map[string]int // pods by the claim they use, namespace/name
}

// SetNode adds or updates a node. A change that no filter or score can see (a heartbeat) leaves no trace in the change log.
func (s *State) SetNode(obj *v1.Node) *Node {
	n := s.node(obj.Name)
	old := n.Object
	n.Object = obj
	if old != nil && sameForScheduling(old, obj) {
		return n
	}
	s.countImages(old, -1)
	s.countImages(obj, 1)
	if old == nil {
		s.nodeCount++
	}
	n.Allocatable = s.Resources.Vector(obj.Status.Allocatable)
	n.Pressure = parsePressure(obj)
	s.nodeChanged(n)
	return n
}

// DeleteNode removes a node. Its pods stay counted on a node without Object, where nothing is scheduled, until they are deleted too.
// Deleting an absent node does nothing.
func (s *State) DeleteNode(name string) {
	n := s.byName[name]
	if n == nil || n.Object == nil {
		return
	}
	s.countImages(n.Object, -1)
	s.nodeCount--
	n.Object, n.Allocatable, n.Pressure = nil, nil, Pressure{}
	s.nodeChanged(n)
	s.reclaim(n)
}

// Node returns the node of that name, or nil.
func (s *State) Node(name string) *Node {
	if n := s.byName[name]; n != nil && n.Object != nil {
		return n
	}
	return nil
}

// NodeCount returns how many nodes exist. len(s.Nodes) may be larger: it counts reusable places too.
func (s *State) NodeCount() int { return s.nodeCount }

func (s *State) nodeChanged(n *Node) {
	s.versions++
	n.Version = s.versions
	for _, t := range s.topologies {
		t.set(n)
	}
	s.touch(n.Index)
}

// node finds or makes the entry of that name.
func (s *State) node(name string) *Node {
	if n := s.byName[name]; n != nil {
		return n
	}
	n := &Node{Name: name, Requested: make(Vector, fixedResources), claims: map[string]int{}}
	if last := len(s.free) - 1; last >= 0 {
		n.Index = s.free[last]
		s.free = s.free[:last]
		s.Nodes[n.Index] = n
	} else {
		n.Index = int32(len(s.Nodes))
		s.Nodes = append(s.Nodes, n)
	}
	s.byName[name] = n
	s.nodeChanged(n)
	return n
}

// reclaim frees n's place once neither the node nor a pod of it is left.
func (s *State) reclaim(n *Node) {
	if n.Object == nil && len(n.Pods) == 0 && len(n.Nominated) == 0 && s.byName[n.Name] == n {
		delete(s.byName, n.Name)
		s.free = append(s.free, n.Index)
		s.touch(n.Index)
	}
}

func sameForScheduling(a, b *v1.Node) bool {
	return a.Spec.Unschedulable == b.Spec.Unschedulable &&
		slices.EqualFunc(a.Spec.Taints, b.Spec.Taints, func(x, y v1.Taint) bool { return x.Key == y.Key && x.Value == y.Value && x.Effect == y.Effect }) &&
		maps.Equal(a.Labels, b.Labels) &&
		a.Annotations[PressureAnnotation] == b.Annotations[PressureAnnotation] &&
		slices.Equal(a.Status.DeclaredFeatures, b.Status.DeclaredFeatures) &&
		equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable) &&
		slices.EqualFunc(a.Status.Images, b.Status.Images, func(x, y v1.ContainerImage) bool {
			return x.SizeBytes == y.SizeBytes && slices.Equal(x.Names, y.Names)
		})
}
