// SPDX-License-Identifier: Apache-2.0

// Package namespace empties namespaces that are being deleted and then lets them go.
//
// It watches Namespaces, and Pods only to know early that the last one is gone. It deletes every object of every namespaced type that discovery shows, pods first,
// and writes the Namespace's conditions and finalizers. What it cannot delete it tells in conditions.
package namespace

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c          *controller.Context
	queue      *controller.Queue
	namespaces corelisters.NamespaceLister
	synced     []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("namespace-controller", "namespace-controller")
	namespaces, pods := c.Informers.Core().V1().Namespaces(), c.Informers.Core().V1().Pods()
	l := &loop{
		c: c, namespaces: namespaces.Lister(),
		synced: []cache.InformerSynced{namespaces.Informer().HasSynced, pods.Informer().HasSynced},
	}
	l.queue = c.Queue("namespace", l.sync)
	controller.On(namespaces.Informer(), func(obj any) {
		if ns, ok := controller.Object[*corev1.Namespace](obj); ok && ns.DeletionTimestamp != nil {
			l.queue.Enqueue(ns)
		}
	})
	controller.Watch(pods.Informer(), func(old, obj any) {
		pod, ok := controller.Object[*corev1.Pod](obj)
		if !ok || old != obj {
			return
		}
		if ns, err := l.namespaces.Get(pod.Namespace); err == nil && ns.DeletionTimestamp != nil {
			l.queue.Add(pod.Namespace)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync takes a namespace as far towards its end as is possible now.
func (l *loop) sync(ctx context.Context, name string) error {
	cached, err := l.namespaces.Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if cached.DeletionTimestamp == nil || !finalizes(cached) {
		return nil
	}
	ns, err := l.c.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil || ns.UID != cached.UID || !finalizes(ns) {
		return controller.IgnoreNotFound(err)
	}
	result, err := l.empty(ctx, name)
	if err != nil {
		return err
	}
	if ns, err = l.writeStatus(ctx, ns, result); err != nil {
		return controller.IgnoreNotFound(err)
	}
	if result.left() {
		klog.FromContext(ctx).V(2).Info("Namespace is not empty yet", "namespace", name, "remaining", result.remaining, "retryAfter", result.retry)
		l.queue.AddAfter(name, result.retry)
		return result.err()
	}
	ns.Spec.Finalizers = controller.Filter(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f != corev1.FinalizerKubernetes })
	_, err = l.c.Client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

func finalizes(ns *corev1.Namespace) bool {
	for _, f := range ns.Spec.Finalizers {
		if f == corev1.FinalizerKubernetes {
			return true
		}
	}
	return false
}

func (l *loop) writeStatus(ctx context.Context, ns *corev1.Namespace, r *outcome) (*corev1.Namespace, error) {
	updated := ns.DeepCopy()
	updated.Status.Phase = corev1.NamespaceTerminating
	updated.Status.Conditions = r.conditions(ns.Status.Conditions, metav1.NewTime(l.c.Clock.Now().Truncate(time.Second)))
	if equality.Semantic.DeepEqual(updated.Status, ns.Status) {
		return ns, nil
	}
	return l.c.Client.CoreV1().Namespaces().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
}
