// SPDX-License-Identifier: Apache-2.0

// Package resourcequota measures what each ResourceQuota's namespace uses.
//
// It watches ResourceQuotas and writes their status; admission charges new objects against it at once, this controller gives back what deleted and finished ones
// no longer use. Pods, services, volume claims and device claims are measured from the shared informers; other types are counted from metadata informers that
// start when the first quota mentions the type, also custom ones. How an object is measured is package controlplane/admission/quota/evaluator's, shared with admission.
package resourcequota

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/admission/quota/evaluator"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	batch  = 200 * time.Millisecond // a deletion waits for others
	resync = 5 * time.Minute        // of every quota, in case an event was lost
)

type loop struct {
	c        *controller.Context
	queue    *controller.Queue
	quotas   corelisters.ResourceQuotaLister
	synced   []cache.InformerSynced
	registry quota.Registry

	mu      sync.Mutex
	ctx     context.Context // of Run: informers of further types live as long
	watched map[schema.GroupVersionResource]cache.SharedIndexInformer
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("resourcequota-controller", "resourcequota-controller")
	quotas := c.Informers.Core().V1().ResourceQuotas()
	l := &loop{
		c: c, quotas: quotas.Lister(), watched: map[schema.GroupVersionResource]cache.SharedIndexInformer{},
		synced: []cache.InformerSynced{quotas.Informer().HasSynced},
	}
	for gvr, inf := range map[schema.GroupVersionResource]cache.SharedIndexInformer{
		corev1.SchemeGroupVersion.WithResource("pods"):                   c.Informers.Core().V1().Pods().Informer(),
		corev1.SchemeGroupVersion.WithResource("services"):               c.Informers.Core().V1().Services().Informer(),
		corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"): c.Informers.Core().V1().PersistentVolumeClaims().Informer(),
		resourcev1.SchemeGroupVersion.WithResource("resourceclaims"):     c.Informers.Resource().V1().ResourceClaims().Informer(),
	} {
		l.watch(gvr, inf)
		if gvr.Group == "" { // device claims may not be served
			l.synced = append(l.synced, inf.HasSynced)
		}
	}
	l.registry = generic.NewRegistry(evaluator.All(l.lister, c.Clock))
	l.queue = c.Queue("resourcequota", l.sync)
	controller.Watch(quotas.Informer(), func(old, obj any) {
		is, _ := controller.Object[*corev1.ResourceQuota](obj)
		was, _ := controller.Object[*corev1.ResourceQuota](old)
		// Admission writes the status with every object it lets pass; that says nothing new.
		if is != nil && (was == nil || !equality.Semantic.DeepEqual(was.Spec, is.Spec)) {
			l.queue.Enqueue(is)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	l.mu.Lock()
	l.ctx = ctx
	l.mu.Unlock()
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync measures a namespace and writes the quota's status.
func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	q, err := l.quotas.ResourceQuotas(namespace).Get(name)
	if err != nil || q.DeletionTimestamp != nil {
		return controller.IgnoreNotFound(err)
	}
	l.queue.AddAfter(key, resync)
	if ready, err := l.mentioned(q); err != nil {
		return err
	} else if !ready {
		l.queue.AddAfter(key, batch)
		return nil
	}
	used, err := quota.CalculateUsage(namespace, q.Spec.Scopes, q.Spec.Hard, l.registry, q.Spec.ScopeSelector)
	if err != nil {
		return fmt.Errorf("measure the usage of namespace %s: %w", namespace, err)
	}
	status := corev1.ResourceQuotaStatus{Hard: corev1.ResourceList{}, Used: corev1.ResourceList{}}
	for r, v := range q.Spec.Hard {
		status.Hard[r] = v
		if u, ok := used[r]; ok {
			status.Used[r] = u
		} else {
			status.Used[r] = q.Status.Used[r] // a type nobody serves: what was known stays
		}
	}
	if equality.Semantic.DeepEqual(status, q.Status) {
		return nil
	}
	q = q.DeepCopy()
	q.Status = status
	_, err = l.c.Client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, q, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

// mentioned starts counting types that q mentions and no evaluator knows, and reports whether all it needs has been listed.
func (l *loop) mentioned(q *corev1.ResourceQuota) (bool, error) {
	for name := range q.Spec.Hard {
		text, ok := strings.CutPrefix(string(name), "count/")
		if !ok {
			continue
		}
		gr := schema.ParseGroupResource(text)
		if l.registry.Get(gr) != nil {
			continue
		}
		gvr, err := l.c.Mapper.ResourceFor(gr.WithVersion(""))
		if meta.IsNoMatchError(err) {
			continue // not served, now
		} else if err != nil {
			return false, err
		}
		l.mu.Lock()
		if l.registry.Get(gr) == nil {
			l.registry.Add(generic.NewObjectCountEvaluator(gr, func(namespace string) ([]runtime.Object, error) { return l.list(gvr, namespace) }, ""))
		}
		l.mu.Unlock()
	}
	ready := true
	for _, e := range l.registry.List() {
		if len(e.MatchingResources(quota.ResourceNames(q.Spec.Hard))) == 0 {
			continue
		}
		gvr, err := l.c.Mapper.ResourceFor(e.GroupResource().WithVersion(""))
		if err != nil {
			continue
		}
		ready = l.informer(gvr).HasSynced() && ready
	}
	return ready, nil
}

// lister gives evaluators the objects of a type.
func (l *loop) lister(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
	return cache.NewGenericLister(l.informer(gvr).GetIndexer(), gvr.GroupResource()), nil
}

func (l *loop) list(gvr schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
	return cache.NewGenericLister(l.informer(gvr).GetIndexer(), gvr.GroupResource()).ByNamespace(namespace).List(labels.Everything())
}

// informer returns the informer of a type; it starts a metadata informer for a type nobody watches.
func (l *loop) informer(gvr schema.GroupVersionResource) cache.SharedIndexInformer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if inf := l.watched[gvr]; inf != nil {
		return inf
	}
	inf := l.c.MetadataInformers.ForResource(gvr).Informer()
	l.watchLocked(gvr, inf)
	l.c.MetadataInformers.Start(l.ctx.Done())
	return inf
}

func (l *loop) watch(gvr schema.GroupVersionResource, inf cache.SharedIndexInformer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchLocked(gvr, inf)
}

// watchLocked has the quotas of a namespace measured again when an object there is deleted, or a pod finishes or is resized.
func (l *loop) watchLocked(gvr schema.GroupVersionResource, inf cache.SharedIndexInformer) {
	l.watched[gvr] = inf
	controller.Watch(inf, func(old, obj any) {
		if old != obj && !gaveBack(old, obj) {
			return
		}
		if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = tombstone.Obj
		}
		m, err := meta.Accessor(obj)
		if err != nil {
			return
		}
		quotas, err := l.quotas.ResourceQuotas(m.GetNamespace()).List(labels.Everything())
		if err != nil {
			return
		}
		for _, q := range quotas {
			l.queue.AddAfter(controller.Key(q), batch)
		}
	})
}

// gaveBack reports whether an update can have lowered what the object uses.
func gaveBack(old, obj any) bool {
	if was, ok := old.(*corev1.Pod); ok {
		is, ok := obj.(*corev1.Pod)
		return ok && (controller.Finished(is) && !controller.Finished(was) || was.Generation != is.Generation)
	}
	was, ok := old.(*corev1.Service)
	if !ok {
		return false
	}
	is, ok := obj.(*corev1.Service)
	return ok && was.Spec.Type != is.Spec.Type
}
