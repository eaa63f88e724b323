// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// Matcher selects pods by namespace and labels. Two Matchers with the same Key select the same pods.
type Matcher struct {
	Namespaces        []string        // sorted; these namespaces by name
	NamespaceSelector labels.Selector // and those whose labels match; nil matches none
	Selector          labels.Selector
	Key               string
}

// NewMatcher builds a Matcher for the pods of namespaces (and of the namespaces that nsSelector matches) that selector matches.
func NewMatcher(namespaces []string, nsSelector, selector labels.Selector) Matcher {
	namespaces = slices.Clone(namespaces)
	slices.Sort(namespaces)
	key := strings.Join(namespaces, ",") + "|"
	if nsSelector != nil {
		key += "{" + nsSelector.String() + "}"
	}
	return Matcher{Namespaces: namespaces, NamespaceSelector: nsSelector, Selector: selector, Key: key + "|" + selectorKey(selector)}
}

func selectorKey(s labels.Selector) string {
	if _, selectable := s.Requirements(); !selectable {
		return "!"
	}
	return s.String()
}

// TermMatcher builds the Matcher of an affinity term of a pod in namespace ns with podLabels. Keys in matchLabelKeys and mismatchLabelKeys become
// requirements on the pod's own values, as the API server's defaulting does; doing it twice changes nothing.
func TermMatcher(term *v1.PodAffinityTerm, ns string, podLabels map[string]string) (Matcher, error) {
	selector, err := metav1.LabelSelectorAsSelector(term.LabelSelector)
	if err != nil {
		return Matcher{}, err
	}
	if selector, err = WithLabelKeys(selector, podLabels, term.MatchLabelKeys, term.MismatchLabelKeys); err != nil {
		return Matcher{}, err
	}
	var nsSelector labels.Selector
	if term.NamespaceSelector != nil {
		if nsSelector, err = metav1.LabelSelectorAsSelector(term.NamespaceSelector); err != nil {
			return Matcher{}, err
		}
	}
	namespaces := term.Namespaces
	if len(namespaces) == 0 && nsSelector == nil {
		namespaces = []string{ns}
	}
	return NewMatcher(namespaces, nsSelector, selector), nil
}

// WithLabelKeys narrows selector to pods with the same (match) and with different (mismatch) values of the given label keys as podLabels.
// Keys that podLabels lacks are ignored.
func WithLabelKeys(selector labels.Selector, podLabels map[string]string, match, mismatch []string) (labels.Selector, error) {
	if _, selectable := selector.Requirements(); !selectable {
		return selector, nil
	}
	narrow := func(keys []string, op selection.Operator) error {
		for _, key := range keys {
			value, ok := podLabels[key]
			if !ok {
				continue
			}
			req, err := labels.NewRequirement(key, op, []string{value})
			if err != nil {
				return err
			}
			selector = selector.Add(*req)
		}
		return nil
	}
	if err := narrow(match, selection.In); err != nil {
		return nil, err
	}
	return selector, narrow(mismatch, selection.NotIn)
}

// Matches reports whether m selects a pod of namespace ns with these labels.
func (s *State) Matches(m *Matcher, ns string, podLabels labels.Set) bool {
	if _, ok := slices.BinarySearch(m.Namespaces, ns); !ok {
		if m.NamespaceSelector == nil || !m.NamespaceSelector.Matches(labels.Set(s.namespaces[ns])) {
			return false
		}
	}
	return m.Selector.Matches(podLabels)
}
