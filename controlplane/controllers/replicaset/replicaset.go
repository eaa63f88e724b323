// SPDX-License-Identifier: Apache-2.0

// Package replicaset keeps spec.replicas pods of each ReplicaSet in existence.
//
// It watches ReplicaSets and Pods. It creates and deletes pods, adopts orphans its selector matches, releases what it no longer matches, and writes
// the ReplicaSet's status. It never touches spec. ReplicationControllers are the same loop on another kind: see package replicationcontroller.
package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// Kind is what the loop needs of the kind of object it keeps pods for.
type Kind struct {
	Name     string // of the controller and its queue
	GVK      schema.GroupVersionKind
	Informer cache.SharedIndexInformer
	// From returns a cached object as a ReplicaSet whose TypeMeta names the real kind.
	From func(obj any) (*appsv1.ReplicaSet, bool)
	// Get reads the object from the API server.
	Get func(ctx context.Context, namespace, name string) (metav1.Object, error)
	// UpdateStatus writes rs.Status; a stale resourceVersion is a conflict.
	UpdateStatus func(ctx context.Context, rs *appsv1.ReplicaSet) error
	// NoTerminating says that the kind's status has no place for terminatingReplicas.
	NoTerminating bool
}

type loop struct {
	kind     Kind
	c        *controller.Context
	queue    *controller.Queue
	expect   *controller.Expectations
	pods     controller.Pods
	podsOf   controller.Owned[*corev1.Pod]
	siblings controller.Owned[metav1.Object]
	synced   []cache.InformerSynced
}

// New returns the controller of ReplicaSets.
func New(c *controller.Context) controller.Controller {
	c = c.As("replicaset-controller", "replicaset-controller")
	gvk := appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	return NewFor(c, Kind{
		Name: "replicaset", GVK: gvk, Informer: c.Informers.Apps().V1().ReplicaSets().Informer(),
		From: func(obj any) (*appsv1.ReplicaSet, bool) { return controller.Object[*appsv1.ReplicaSet](obj) },
		Get: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return c.Client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		UpdateStatus: func(ctx context.Context, rs *appsv1.ReplicaSet) error {
			_, err := c.Client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
			return err
		},
	})
}

// NewFor returns the controller of another kind that keeps a number of pods.
func NewFor(c *controller.Context, kind Kind) controller.Controller {
	podInformer := c.Informers.Core().V1().Pods().Informer()
	l := &loop{
		kind: kind, c: c,
		expect:   controller.NewExpectations(c.Clock),
		pods:     controller.Pods{Client: c.Client, Events: c.Events},
		podsOf:   controller.OwnedBy[*corev1.Pod](podInformer),
		siblings: controller.OwnedBy[metav1.Object](kind.Informer),
		synced:   []cache.InformerSynced{kind.Informer.HasSynced, podInformer.HasSynced},
	}
	l.queue = c.Queue(kind.Name, l.sync)
	controller.On(kind.Informer, l.queue.Enqueue)
	controller.Watch(podInformer, l.podChanged)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	obj, exists, err := l.kind.Informer.GetIndexer().GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		l.expect.Forget(key)
		return nil
	}
	rs, ok := l.kind.From(obj)
	if !ok {
		return fmt.Errorf("%s %s is cached as a %T", l.kind.Name, key, obj)
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		l.c.Events.Eventf(rs, corev1.EventTypeWarning, "SelectorInvalid", "The selector cannot be used: %v", err)
		return nil // only a new spec can help
	}
	overdue := l.expect.Wait(key)
	settled := overdue == 0
	mine, err := l.claim(ctx, rs, selector)
	if err != nil {
		return err
	}
	active := controller.Filter(mine, controller.Active)
	var manageErr error
	if settled && rs.DeletionTimestamp == nil {
		manageErr = l.manage(ctx, key, rs, active)
	}
	status, recheck := l.status(rs, mine, active, manageErr)
	if !settled {
		// The cache is older than our own writes: nothing was decided for this spec yet, and the count may be too low.
		status.ObservedGeneration = rs.Status.ObservedGeneration
		l.queue.AddAfter(key, overdue)
	}
	if err := l.writeStatus(ctx, rs, status); err != nil && manageErr == nil {
		return err
	}
	if recheck > 0 && manageErr == nil {
		l.queue.AddAfter(key, recheck)
	}
	return manageErr
}

// claim returns the pods that rs controls, after adoption and release.
func (l *loop) claim(ctx context.Context, rs *appsv1.ReplicaSet, selector labels.Selector) ([]*corev1.Pod, error) {
	claim := controller.Claim[*corev1.Pod]{
		Owner: rs, Kind: l.kind.GVK, Selector: selector, Patch: l.pods.Patch, Filter: controller.Active,
		Fresh: func(ctx context.Context) (metav1.Object, error) { return l.kind.Get(ctx, rs.Namespace, rs.Name) },
	}
	if selector.Empty() {
		return l.podsOf.Of(rs), nil // an empty selector would adopt the whole namespace
	}
	return claim.Run(ctx, l.podsOf.Candidates(rs))
}

func (l *loop) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if sameStatus(&rs.Status, &status) {
		return nil
	}
	rs = rs.DeepCopy()
	rs.Status = status
	err := l.kind.UpdateStatus(ctx, rs)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
