// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// PerNode counts something per node index. Nodes with zero are absent.
type PerNode map[int32]int64

func (p PerNode) add(node int32, delta int64) {
	if n := p[node] + delta; n == 0 {
		delete(p, node)
	} else {
		p[node] = n
	}
}

// LabelSet is one namespace and set of labels, shared by all pods that have it.
type LabelSet struct {
	Namespace   string
	Labels      labels.Set
	terminating bool // pods being deleted have their own sets: topology spread does not count them
	key         string
	pods        int
	perNode     PerNode
	counters    []*Counter // those that match
}

// Counter counts the pods per node that all of its matchers select.
type Counter struct {
	matchers         []Matcher
	countTerminating bool
	key              string
	users            int
	PerNode          PerNode
}

func labelSetKey(ns string, set map[string]string, terminating bool) string {
	var b strings.Builder
	b.WriteString(ns)
	if terminating {
		b.WriteByte(1)
	}
	if len(set) < 2 {
		for k, v := range set {
			b.WriteByte(0)
			b.WriteString(k)
			b.WriteByte('=')
			b.WriteString(v)
		}
		return b.String()
	}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		b.WriteByte(0)
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(set[k])
	}
	return b.String()
}

// labelSet interns a set and finds the counters that match it.
func (s *State) labelSet(ns string, podLabels map[string]string, terminating bool) *LabelSet {
	key := labelSetKey(ns, podLabels, terminating)
	if ls := s.labelSets[key]; ls != nil {
		return ls
	}
	ls := &LabelSet{Namespace: ns, Labels: podLabels, terminating: terminating, key: key, perNode: PerNode{}}
	s.counterIndex.candidates(ls.Labels, func(c *Counter) {
		if s.counts(c, ls) {
			ls.counters = append(ls.counters, c)
		}
	})
	s.labelSets[key] = ls
	s.labelIndex.add(ls)
	return ls
}

func (s *State) counts(c *Counter, ls *LabelSet) bool {
	if ls.terminating && !c.countTerminating {
		return false
	}
	for i := range c.matchers {
		if !s.Matches(&c.matchers[i], ls.Namespace, ls.Labels) {
			return false
		}
	}
	return true
}

func (s *State) countPod(ls *LabelSet, node int32, delta int64) {
	ls.pods += int(delta)
	ls.perNode.add(node, delta)
	for _, c := range ls.counters {
		c.PerNode.add(node, delta)
	}
	if ls.pods == 0 {
		delete(s.labelSets, ls.key)
		s.labelIndex.remove(ls)
	}
}

// Counter returns the counter of pods that every matcher selects, and counts from now on. Pods being deleted count if countTerminating.
// Each call must be paired with one ReleaseCounter.
func (s *State) Counter(countTerminating bool, matchers ...Matcher) *Counter {
	key := "live"
	if countTerminating {
		key = "all"
	}
	for i := range matchers {
		key += "\x00" + matchers[i].Key
	}
	if c := s.counters[key]; c != nil {
		c.users++
		return c
	}
	c := &Counter{matchers: matchers, countTerminating: countTerminating, key: key, users: 1, PerNode: PerNode{}}
	s.mayMatch(c, func(ls *LabelSet) {
		if !s.counts(c, ls) {
			return
		}
		ls.counters = append(ls.counters, c)
		for node, n := range ls.perNode {
			c.PerNode.add(node, n)
		}
	})
	s.counters[key] = c
	s.counterIndex.add(matchers[0].Selector, c)
	return c
}

// mayMatch calls f for the label sets that c may count.
func (s *State) mayMatch(c *Counter, f func(*LabelSet)) {
	if p := demanded(c.matchers[0].Selector); p != "" {
		for ls := range s.labelIndex[p] {
			f(ls)
		}
		return
	}
	for _, ls := range s.labelSets {
		f(ls)
	}
}

// ReleaseCounter gives up one use of c; with the last one it stops counting.
func (s *State) ReleaseCounter(c *Counter) {
	if c.users--; c.users > 0 {
		return
	}
	delete(s.counters, c.key)
	s.counterIndex.remove(c.matchers[0].Selector, c)
	s.mayMatch(c, func(ls *LabelSet) {
		if i := slices.Index(ls.counters, c); i >= 0 {
			ls.counters = slices.Delete(ls.counters, i, i+1)
		}
	})
}

// Counts reports whether a pod of namespace ns with these labels, not being deleted, counts.
func (s *State) Counts(c *Counter, ns string, podLabels labels.Set) bool {
	return s.counts(c, &LabelSet{Namespace: ns, Labels: podLabels})
}
