// SPDX-License-Identifier: Apache-2.0

package controller

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	ownerIndex = "fairlead/owner"
	nodeIndex  = "fairlead/node"
)

// Index adds an index to inf unless it has one of that name, so that several controllers can share it. It panics when inf has stopped.
func Index(inf cache.SharedIndexInformer, name string, f cache.IndexFunc) cache.Indexer {
	if _, ok := inf.GetIndexer().GetIndexers()[name]; !ok {
		if err := inf.AddIndexers(cache.Indexers{name: f}); err != nil {
			panic(err)
		}
	}
	return inf.GetIndexer()
}

// Owned finds objects by their controlling owner without scanning a namespace. Returned objects belong to the cache: copy before writing.
type Owned[T metav1.Object] struct{ indexer cache.Indexer }

// OwnedBy indexes inf by controlling owner.
func OwnedBy[T metav1.Object](inf cache.SharedIndexInformer) Owned[T] {
	return Owned[T]{Index(inf, ownerIndex, func(obj any) ([]string, error) {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, err
		}
		if ref := metav1.GetControllerOfNoCopy(m); ref != nil {
			return []string{string(ref.UID)}, nil
		}
		return []string{"orphan/" + m.GetNamespace()}, nil
	})}
}

// Of lists the objects whose controlling owner is owner.
func (o Owned[T]) Of(owner metav1.Object) []T { return o.by(string(owner.GetUID())) }

// Orphans lists the objects of a namespace without a controlling owner.
func (o Owned[T]) Orphans(namespace string) []T { return o.by("orphan/" + namespace) }

// Candidates lists what owner may claim: its own objects and the orphans of its namespace.
func (o Owned[T]) Candidates(owner metav1.Object) []T {
	return append(o.Of(owner), o.Orphans(owner.GetNamespace())...)
}

func (o Owned[T]) by(value string) []T {
	return byIndex[T](o.indexer, ownerIndex, value)
}

// PodsByNode returns a function that lists the pods bound to a node ("" lists the unbound ones).
func PodsByNode(inf cache.SharedIndexInformer) func(node string) []*corev1.Pod {
	indexer := Index(inf, nodeIndex, func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	})
	return func(node string) []*corev1.Pod { return byIndex[*corev1.Pod](indexer, nodeIndex, node) }
}

func byIndex[T any](indexer cache.Indexer, name, value string) []T {
	found, err := indexer.ByIndex(name, value)
	if err != nil {
		panic(err) // the index was added by the caller
	}
	out := make([]T, 0, len(found))
	for _, obj := range found {
		if t, ok := obj.(T); ok {
			out = append(out, t)
		}
	}
	return out
}
