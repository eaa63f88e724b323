// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// State is the cluster as far as scheduling is concerned.
type State struct {
	Resources *ResourceNames
	Nodes     []*Node // by index; a place whose node is gone keeps a Node without Object
	Storage   *Storage

	byName    map[string]*Node
	free      []int32
	nodeCount int
	versions  uint64

	pods       map[types.UID]*Pod
	nominated  map[types.UID]*Pod
	namespaces map[string]map[string]string // labels by name
	images     map[string]*Image
	topologies map[string]*Topology

	labelSets     map[string]*LabelSet
	labelIndex    labelIndex
	counters      map[string]*Counter
	counterIndex  selectorIndex[*Counter]
	holdingIndex  selectorIndex[*Holding]
	holdings      []*Holding
	holdingByKey  map[string]*Holding
	emptyHoldings int

	log   []int32 // node indexes; log[i] is change number trimmed+i
	trim  uint64
	epoch uint64
}

// New returns the state of an empty cluster.
func New() *State {
	return &State{
		Resources: newResourceNames(), Storage: newStorage(), byName: map[string]*Node{}, pods: map[types.UID]*Pod{}, nominated: map[types.UID]*Pod{},
		namespaces: map[string]map[string]string{}, images: map[string]*Image{}, topologies: map[string]*Topology{},
		labelSets: map[string]*LabelSet{}, counters: map[string]*Counter{}, holdingByKey: map[string]*Holding{},
		labelIndex: labelIndex{}, counterIndex: selectorIndex[*Counter]{}, holdingIndex: selectorIndex[*Holding]{},
	}
}

// logLimit bounds the change log; a reader further behind looks at every node once.
const logLimit = 1 << 15

func (s *State) touch(node int32) {
	if len(s.log) == logLimit {
		s.trim += logLimit / 2
		s.log = append(s.log[:0], s.log[logLimit/2:]...)
	}
	s.log = append(s.log, node)
}

// Seq is the number of changes so far.
func (s *State) Seq() uint64 { return s.trim + uint64(len(s.log)) }

// Changes returns the indexes of the nodes that changed after change number since, with repetitions, oldest first. ok is false if the log does
// not reach back that far or if looking at every node is less work.
func (s *State) Changes(since uint64) (nodes []int32, ok bool) {
	if since < s.trim || s.Seq()-since > uint64(len(s.Nodes)) {
		return nil, false
	}
	return s.log[since-s.trim:], true
}

// Epoch changes when readers must forget everything they derived: positions of Holdings, and what namespaces selectors match.
func (s *State) Epoch() uint64 { return s.epoch }

// SetNamespace adds or updates a namespace's labels, which namespace selectors of affinity terms match. Nil labels delete it.
func (s *State) SetNamespace(name string, labels map[string]string) {
	old, known := s.namespaces[name]
	if known && labels != nil && maps.Equal(old, labels) {
		return
	}
	if labels == nil {
		delete(s.namespaces, name)
	} else {
		s.namespaces[name] = labels
	}
	s.recount(name)
}

// recount matches the label sets of one namespace against all counters again, and starts an epoch if that could change anything.
func (s *State) recount(namespace string) {
	selecting := false
	for _, h := range s.holdings {
		selecting = selecting || h.Matcher.NamespaceSelector != nil
	}
	for _, c := range s.counters {
		for i := range c.matchers {
			selecting = selecting || c.matchers[i].NamespaceSelector != nil
		}
	}
	if !selecting {
		return
	}
	for _, ls := range s.labelSets {
		if ls.Namespace != namespace {
			continue
		}
		for _, c := range ls.counters {
			for node, n := range ls.perNode {
				c.PerNode.add(node, -n)
			}
		}
		ls.counters = nil
		for _, c := range s.counters {
			if !s.counts(c, ls) {
				continue
			}
			ls.counters = append(ls.counters, c)
			for node, n := range ls.perNode {
				c.PerNode.add(node, n)
			}
		}
	}
	s.epoch++
}

func equalQuantity(a, b resource.Quantity) bool { return a.Equal(b) }
