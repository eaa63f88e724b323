// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// pair is one label, as "key=value".
type pair string

func pairOf(key, value string) pair { return pair(key + "=" + value) }

// demanded returns a label that every object matched by selector has, or "" if there is no such single label. Of several it takes the one with the
// longest value: it is likely the one that tells most ("app=web-7" rather than "tier=front").
func demanded(selector labels.Selector) pair {
	best, length := pair(""), -1
	requirements, _ := selector.Requirements()
	for i := range requirements {
		r := &requirements[i]
		if op := r.Operator(); op != selection.Equals && op != selection.DoubleEquals && op != selection.In {
			continue
		}
		values := r.ValuesUnsorted()
		if len(values) == 1 && len(values[0]) > length {
			best, length = pairOf(r.Key(), values[0]), len(values[0])
		}
	}
	return best
}

// selectorIndex finds the things whose selector may match a set of labels, without looking at the others.
type selectorIndex[T comparable] map[pair][]T

func (x selectorIndex[T]) add(selector labels.Selector, t T) {
	p := demanded(selector)
	x[p] = append(x[p], t)
}

func (x selectorIndex[T]) remove(selector labels.Selector, t T) {
	p := demanded(selector)
	list := x[p]
	if i := slices.Index(list, t); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(x, p)
	} else {
		x[p] = list
	}
}

// candidates calls f for everything whose selector may match set.
func (x selectorIndex[T]) candidates(set labels.Set, f func(T)) {
	for _, t := range x[""] {
		f(t)
	}
	for k, v := range set {
		for _, t := range x[pairOf(k, v)] {
			f(t)
		}
	}
}

// labelIndex finds the label sets that a selector may match.
type labelIndex map[pair]map[*LabelSet]struct{}

func (x labelIndex) add(ls *LabelSet) {
	for k, v := range ls.Labels {
		p := pairOf(k, v)
		if x[p] == nil {
			x[p] = map[*LabelSet]struct{}{}
		}
		x[p][ls] = struct{}{}
	}
}

func (x labelIndex) remove(ls *LabelSet) {
	for k, v := range ls.Labels {
		p := pairOf(k, v)
		delete(x[p], ls)
		if len(x[p]) == 0 {
			delete(x, p)
		}
	}
}
