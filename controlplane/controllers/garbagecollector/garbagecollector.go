// SPDX-License-Identifier: Apache-2.0

// Package garbagecollector deletes objects whose owners are gone, and carries out the two slow ways of deleting an owner: foreground (dependents
// first) and orphan (dependents stay).
//
//	discovery -> one metadata reflector per type -> graph of owner references -> check queue  -> delete, or drop dead references
//	                                                                        -> orphan queue -> cut dependents loose, then the owner goes
//
// It watches the metadata of every deletable type, also of those that custom resource definitions add later. It writes owner references and
// finalizers and deletes objects. The graph decides what to look at; whether something is deleted is decided on what the API server says at that moment,
// with UID and resource version as preconditions.
package garbagecollector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const workers = 20 // deletions wait for the network, not for a CPU

// errNotObserved means that an object exists that no reflector has shown yet.
var errNotObserved = errors.New("the object exists and was not observed yet")

type loop struct {
	c        *controller.Context
	checks   *controller.Queue
	orphans  *controller.Queue
	graph    *graph
	monitors *monitors
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("generic-garbage-collector", "garbage-collector-controller")
	l := &loop{c: c}
	l.checks = c.Queue("garbagecollector_check", l.check)
	l.orphans = c.Queue("garbagecollector_orphan", l.orphan)
	l.graph = newGraph(func(uid types.UID) { l.checks.Add(string(uid)) }, func(uid types.UID) { l.orphans.Add(string(uid)) })
	l.monitors = &monitors{
		client: c.Metadata, discovery: c.Discovery, graph: l.graph, reset: c.Mapper.Reset,
		poke: make(chan struct{}, 1), running: map[schema.GroupVersionResource]*monitor{},
	}
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{}, 2)
	go func() { l.monitors.run(ctx); done <- struct{}{} }()
	go func() { _ = l.orphans.Run(ctx, workers, l.monitors.allSynced); done <- struct{}{} }()
	err := l.checks.Run(ctx, workers, l.monitors.allSynced)
	<-done
	<-done
	return err
}

// check decides whether one object must be deleted, may end a foreground deletion, or has dead owner references.
func (l *loop) check(ctx context.Context, key string) error {
	n, ok := l.graph.get(types.UID(key))
	if !ok || n.deleting && !n.foreground {
		return nil
	}
	if n.virtual {
		return l.verify(ctx, n)
	}
	live, err := l.client(n.gvr, n.namespace).Get(ctx, n.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != n.uid {
		l.graph.gone(n.uid)
		return nil
	} else if err != nil {
		return err
	}
	if live.DeletionTimestamp != nil {
		if slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents) {
			return l.endForeground(ctx, n, live)
		}
		return nil
	}
	if len(live.OwnerReferences) == 0 {
		return nil
	}
	refs, err := l.classify(ctx, n, live)
	if err != nil {
		return err
	}
	switch {
	case len(refs.solid) > 0:
		if len(refs.solid) == len(live.OwnerReferences) {
			return nil
		}
		return l.patchMeta(ctx, n.gvr, live, map[string]any{"ownerReferences": refs.solid})
	case len(refs.waiting) > 0 && len(n.dependents) > 0:
		if slices.ContainsFunc(n.dependents, func(d dependent) bool { return d.fg }) {
			// A dependent of this object is itself in foreground deletion: the references may form a circle, in which everyone waits for everyone.
			if err := l.unblock(ctx, n, live); err != nil {
				return err
			}
			if live, err = l.client(n.gvr, n.namespace).Get(ctx, n.name, metav1.GetOptions{}); err != nil {
				return controller.IgnoreNotFound(err)
			}
		}
		return l.delete(ctx, n, live, metav1.DeletePropagationForeground)
	}
	policy := metav1.DeletePropagationBackground // unless somebody has decided otherwise before
	if slices.Contains(live.Finalizers, metav1.FinalizerOrphanDependents) {
		policy = metav1.DeletePropagationOrphan
	} else if slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents) {
		policy = metav1.DeletePropagationForeground
	}
	return l.delete(ctx, n, live, policy)
}

// verify asks whether an owner exists that is known from references only.
func (l *loop) verify(ctx context.Context, n view) error {
	live, err := l.lookup(ctx, n.gvk, n.namespace, n.name)
	if meta.IsNoMatchError(err) {
		// A kind nobody serves: it may come back. Deleting on a guess would be worse than keeping garbage, so dependents stay until it is known.
		l.checks.AddAfter(string(n.uid), 5*time.Minute)
		return nil
	}
	if apierrors.IsNotFound(err) || err == nil && live.UID != n.uid {
		for _, d := range n.dependents {
			l.checks.Add(string(d.uid))
		}
		return nil
	} else if err != nil {
		return err
	}
	gvr, _, err := l.mapping(n.gvk)
	if err == nil && !l.monitors.watches(gvr) {
		return nil // a type that cannot be watched; its deletion shows when dependents are checked
	}
	return fmt.Errorf("owner %s %s/%s: %w", n.gvk.Kind, n.namespace, n.name, errNotObserved)
}

// references are an object's owner references by the state of the owner.
type references struct {
	solid   []metav1.OwnerReference // the owner exists
	waiting []metav1.OwnerReference // the owner is in foreground deletion and waits for this object
	dead    []metav1.OwnerReference // there is no such owner
}

func (l *loop) classify(ctx context.Context, n view, live *metav1.PartialObjectMetadata) (references, error) {
	var r references
	for _, ref := range live.OwnerReferences {
		if owner, ok := l.graph.get(ref.UID); ok && !owner.virtual && !owner.deleting && owner.name == ref.Name && (owner.namespace == "" || owner.namespace == n.namespace) {
			r.solid = append(r.solid, ref) // should it be gone by now, its deletion brings us back
			continue
		}
		gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
		_, namespaced, err := l.mapping(gvk)
		if meta.IsNoMatchError(err) {
			r.solid = append(r.solid, ref)
			continue
		} else if err != nil {
			return r, err
		}
		if namespaced && n.namespace == "" {
			l.c.Events.Eventf(&corev1.ObjectReference{Kind: live.Kind, APIVersion: live.APIVersion, Name: n.name, UID: n.uid}, corev1.EventTypeWarning,
				"OwnerRefInvalidNamespace", "cluster-scoped objects cannot be owned by the namespaced kind %s; the owner reference to %s is ignored", ref.Kind, ref.Name)
			r.solid = append(r.solid, ref)
			continue
		}
		owner, err := l.lookup(ctx, gvk, n.namespace, ref.Name)
		switch {
		case apierrors.IsNotFound(err) || err == nil && owner.UID != ref.UID:
			if other, ok := l.graph.get(ref.UID); ok && !other.virtual && other.namespace != "" && other.namespace != n.namespace {
				l.c.Events.Eventf(&corev1.ObjectReference{Kind: live.Kind, APIVersion: live.APIVersion, Namespace: n.namespace, Name: n.name, UID: n.uid},
					corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s/%s, uid %s, does not exist in namespace %q", ref.Kind, ref.Name, ref.UID, n.namespace)
			}
			r.dead = append(r.dead, ref)
		case err != nil:
			return r, err
		case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents):
			r.waiting = append(r.waiting, ref)
		default:
			r.solid = append(r.solid, ref)
		}
	}
	return r, nil
}

// endForeground lets an object in foreground deletion go when nothing that blocks it is left, and sees to what is.
func (l *loop) endForeground(ctx context.Context, n view, live *metav1.PartialObjectMetadata) error {
	blocked := false
	for _, d := range n.dependents {
		if !d.blocks || d.uid == n.uid { // what owns itself does not wait for itself
			continue
		}
		blocked = true
		if !d.deleting {
			l.checks.Add(string(d.uid))
		}
	}
	if blocked {
		return nil // the end of each of them brings us back
	}
	return l.dropFinalizer(ctx, n.gvr, live, metav1.FinalizerDeleteDependents)
}

// orphan cuts an object's dependents loose and then lets it go.
func (l *loop) orphan(ctx context.Context, key string) error {
	n, ok := l.graph.get(types.UID(key))
	if !ok || n.virtual {
		return nil
	}
	if !l.monitors.allSynced() {
		l.orphans.AddAfter(key, time.Second) // a dependent of a type not listed yet would lose its owner
		return nil
	}
	errs := controller.Parallel(len(n.dependents), func(i int) error {
		d := n.dependents[i]
		live, err := l.client(d.gvr, d.namespace).Get(ctx, d.name, metav1.GetOptions{})
		if err != nil || live.UID != d.uid || findRef(live.OwnerReferences, n.uid) == nil {
			return controller.IgnoreNotFound(err)
		}
		kept := controller.Filter(live.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID != n.uid })
		return l.patchMeta(ctx, d.gvr, live, map[string]any{"ownerReferences": kept})
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("orphan the dependents of %s %s/%s: %w", n.gvr.Resource, n.namespace, n.name, err)
	}
	live, err := l.client(n.gvr, n.namespace).Get(ctx, n.name, metav1.GetOptions{})
	if err != nil || live.UID != n.uid {
		return controller.IgnoreNotFound(err)
	}
	return l.dropFinalizer(ctx, n.gvr, live, metav1.FinalizerOrphanDependents)
}

// unblock makes an object no longer hold up the deletion of its owners.
func (l *loop) unblock(ctx context.Context, n view, live *metav1.PartialObjectMetadata) error {
	no := false
	refs := slices.Clone(live.OwnerReferences)
	for i := range refs {
		if blocks(&refs[i]) {
			refs[i].BlockOwnerDeletion = &no
		}
	}
	return l.patchMeta(ctx, n.gvr, live, map[string]any{"ownerReferences": refs})
}

func (l *loop) delete(ctx context.Context, n view, live *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	err := l.client(n.gvr, n.namespace).Delete(ctx, n.name, metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     &metav1.Preconditions{UID: &n.uid, ResourceVersion: &live.ResourceVersion},
	})
	return controller.IgnoreNotFound(err)
}

func (l *loop) dropFinalizer(ctx context.Context, gvr schema.GroupVersionResource, live *metav1.PartialObjectMetadata, name string) error {
	if !slices.Contains(live.Finalizers, name) {
		return nil
	}
	kept := controller.Filter(live.Finalizers, func(f string) bool { return f != name })
	return l.patchMeta(ctx, gvr, live, map[string]any{"finalizers": kept})
}

// patchMeta sets metadata fields of live unless it has changed since.
func (l *loop) patchMeta(ctx context.Context, gvr schema.GroupVersionResource, live *metav1.PartialObjectMetadata, fields map[string]any) error {
	fields["uid"], fields["resourceVersion"] = live.UID, live.ResourceVersion
	body, err := json.Marshal(map[string]any{"metadata": fields})
	if err != nil {
		return err
	}
	_, err = l.client(gvr, live.Namespace).Patch(ctx, live.Name, types.MergePatchType, body, metav1.PatchOptions{})
	return controller.IgnoreNotFound(err)
}

// lookup reads an owner; namespace is ignored for a cluster-scoped kind.
func (l *loop) lookup(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	gvr, namespaced, err := l.mapping(gvk)
	if err != nil {
		return nil, err
	}
	if !namespaced {
		namespace = ""
	}
	return l.client(gvr, namespace).Get(ctx, name, metav1.GetOptions{})
}

func (l *loop) mapping(gvk schema.GroupVersionKind) (gvr schema.GroupVersionResource, namespaced bool, err error) {
	m, err := l.c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return gvr, false, err
	}
	return m.Resource, m.Scope.Name() == meta.RESTScopeNameNamespace, nil
}

func (l *loop) client(gvr schema.GroupVersionResource, namespace string) metadata.ResourceInterface {
	if namespace == "" {
		return l.c.Metadata.Resource(gvr)
	}
	return l.c.Metadata.Resource(gvr).Namespace(namespace)
}
