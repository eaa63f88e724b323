// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TermKind is the list of a pod's affinity that a term stands in.
type TermKind uint8

const (
	RequiredAffinity TermKind = iota
	RequiredAntiAffinity
	PreferredAffinity
	PreferredAntiAffinity
)

// Term is one inter-pod affinity term of a pod.
type Term struct {
	Kind        TermKind
	Weight      int64 // of a preferred term; 1 for a required one
	TopologyKey string
	Matcher     Matcher
	key         string
}

// Holding sums, per node, the weights of the pods that carry one term.
type Holding struct {
	Kind        TermKind
	TopologyKey string
	Matcher     Matcher
	PerNode     PerNode
	key         string
}

// Terms lists the affinity terms of pod.
func Terms(pod *v1.Pod) ([]Term, error) {
	affinity := pod.Spec.Affinity
	if affinity == nil || affinity.PodAffinity == nil && affinity.PodAntiAffinity == nil {
		return nil, nil
	}
	var terms []Term
	add := func(kind TermKind, weight int64, t *v1.PodAffinityTerm) error {
		m, err := TermMatcher(t, pod.Namespace, pod.Labels)
		if err != nil {
			return fmt.Errorf("pod affinity term: %w", err)
		}
		terms = append(terms, Term{Kind: kind, Weight: weight, TopologyKey: t.TopologyKey, Matcher: m,
			key: strconv.Itoa(int(kind)) + "\x00" + t.TopologyKey + "\x00" + m.Key})
		return nil
	}
	addAll := func(required []v1.PodAffinityTerm, preferred []v1.WeightedPodAffinityTerm, requiredKind, preferredKind TermKind) error {
		for i := range required {
			if err := add(requiredKind, 1, &required[i]); err != nil {
				return err
			}
		}
		for i := range preferred {
			if preferred[i].Weight == 0 {
				continue
			}
			if err := add(preferredKind, int64(preferred[i].Weight), &preferred[i].PodAffinityTerm); err != nil {
				return err
			}
		}
		return nil
	}
	if a := affinity.PodAffinity; a != nil {
		if err := addAll(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution,
			RequiredAffinity, PreferredAffinity); err != nil {
			return nil, err
		}
	}
	if a := affinity.PodAntiAffinity; a != nil {
		if err := addAll(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution,
			RequiredAntiAffinity, PreferredAntiAffinity); err != nil {
			return nil, err
		}
	}
	return terms, nil
}

// holding interns the Holding of a term.
func (s *State) holding(t *Term) *Holding {
	if h := s.holdingByKey[t.key]; h != nil {
		return h
	}
	h := &Holding{Kind: t.Kind, TopologyKey: t.TopologyKey, Matcher: t.Matcher, PerNode: PerNode{}, key: t.key}
	s.holdingByKey[t.key] = h
	s.holdings = append(s.holdings, h)
	s.holdingIndex.add(h.Matcher.Selector, h)
	s.emptyHoldings++
	return h
}

func (s *State) hold(h *Holding, node int32, weight int64) {
	before := len(h.PerNode)
	h.PerNode.add(node, weight)
	switch {
	case before == 0 && len(h.PerNode) > 0:
		s.emptyHoldings--
	case before > 0 && len(h.PerNode) == 0:
		s.emptyHoldings++
	}
}

// Holdings lists every term that some pod carries or carried, from position since on. The list only grows within one Epoch.
func (s *State) Holdings(since int) []*Holding { return s.holdings[since:] }

// MatchingHoldings calls f for every term so far that matches a pod of namespace ns with these labels, and returns the position after the last.
func (s *State) MatchingHoldings(ns string, podLabels labels.Set, f func(*Holding)) int {
	s.holdingIndex.candidates(podLabels, func(h *Holding) {
		if s.Matches(&h.Matcher, ns, podLabels) {
			f(h)
		}
	})
	return len(s.holdings)
}

// compactHoldings drops the terms that no pod carries any more, once they are the majority, and starts a new epoch.
func (s *State) compactHoldings() {
	if s.emptyHoldings < 1024 || s.emptyHoldings < len(s.holdings)/2 {
		return
	}
	kept := s.holdings[:0:0]
	for _, h := range s.holdings {
		if len(h.PerNode) == 0 {
			delete(s.holdingByKey, h.key)
			s.holdingIndex.remove(h.Matcher.Selector, h)
			continue
		}
		kept = append(kept, h)
	}
	s.holdings = kept
	s.emptyHoldings = 0
	s.epoch++
}
