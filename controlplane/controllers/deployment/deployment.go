// SPDX-License-Identifier: Apache-2.0

// Package deployment rolls the pods of each Deployment from one template to the next by moving replicas between ReplicaSets, one per template.
//
// It watches Deployments, ReplicaSets and, for the Recreate strategy, Pods. It creates, scales and deletes ReplicaSets, keeps the revision
// annotations that kubectl rollout reads, and writes the Deployment's status. It creates no pods: package replicaset does.
//
//	template changed? -> new ReplicaSet (0 or surge) -> scale new up / old down within maxSurge, maxUnavailable -> complete -> old ones kept as history
package deployment

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

var gvk = appsv1.SchemeGroupVersion.WithKind("Deployment")

type loop struct {
	c           *controller.Context
	queue       *controller.Queue
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	setsOf      controller.Owned[*appsv1.ReplicaSet]
	podsOf      controller.Owned[*corev1.Pod]
	writes      *controller.Writes
	synced      []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("deployment-controller", "deployment-controller")
	deployments, sets, pods := c.Informers.Apps().V1().Deployments(), c.Informers.Apps().V1().ReplicaSets(), c.Informers.Core().V1().Pods()
	l := &loop{
		c: c, deployments: deployments.Lister(), sets: sets.Lister(),
		setsOf: controller.OwnedBy[*appsv1.ReplicaSet](sets.Informer()),
		podsOf: controller.OwnedBy[*corev1.Pod](pods.Informer()),
		writes: controller.NewWrites(c.Clock),
		synced: []cache.InformerSynced{deployments.Informer().HasSynced, sets.Informer().HasSynced, pods.Informer().HasSynced},
	}
	l.queue = c.Queue("deployment", l.sync)
	controller.On(deployments.Informer(), l.queue.Enqueue)
	controller.Watch(sets.Informer(), l.setChanged)
	controller.Watch(pods.Informer(), l.podChanged)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	cached, err := l.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		l.writes.Forget(key)
		return nil
	} else if err != nil {
		return err
	}
	if !l.writes.Seen(key, l.cachedSet(namespace)) {
		l.queue.AddAfter(key, 100*time.Millisecond) // the ReplicaSet's event adds it sooner
		return nil
	}
	d := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		l.c.Events.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return l.observe(ctx, d)
	}
	sets, err := l.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	r := &rollout{loop: l, key: key, d: d, sets: sets}
	r.split()
	if d.DeletionTimestamp != nil {
		return r.writeStatus(ctx, r.status())
	}
	if changed, err := r.pausedCondition(ctx); err != nil || changed {
		return err
	}
	switch {
	case d.Spec.Paused:
		return r.scaleOnly(ctx)
	case d.Annotations[appsv1.DeprecatedRollbackTo] != "":
		return r.rollback(ctx)
	case r.isScaling():
		return r.scaleOnly(ctx)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return r.recreate(ctx)
	case d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		return r.rolling(ctx)
	}
	return fmt.Errorf("deployment %s has the unknown strategy %q", key, d.Spec.Strategy.Type)
}

func (l *loop) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	claim := controller.Claim[*appsv1.ReplicaSet]{
		Owner: d, Kind: gvk, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return l.c.Client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, rs *appsv1.ReplicaSet, patch []byte) error {
			_, err := l.c.Client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	return claim.Run(ctx, l.setsOf.Candidates(d))
}

// observe records that the controller saw d's generation and can do nothing with it.
func (l *loop) observe(ctx context.Context, d *appsv1.Deployment) error {
	if d.Status.ObservedGeneration >= d.Generation {
		return nil
	}
	d.Status.ObservedGeneration = d.Generation
	_, err := l.c.Client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	return err
}

func (l *loop) cachedSet(namespace string) func(string) metav1.Object {
	return func(name string) metav1.Object {
		if rs, err := l.sets.ReplicaSets(namespace).Get(name); err == nil {
			return rs
		}
		return nil
	}
}

// setChanged asks for a sync of the Deployment that controls, controlled, or may adopt a ReplicaSet.
func (l *loop) setChanged(oldObj, newObj any) {
	rs, ok := controller.Object[*appsv1.ReplicaSet](newObj)
	if !ok {
		return
	}
	if old, ok := controller.Object[*appsv1.ReplicaSet](oldObj); ok && old != nil {
		l.enqueueOwner(old)
	}
	if l.enqueueOwner(rs); metav1.GetControllerOfNoCopy(rs) != nil {
		return
	}
	all, err := l.deployments.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range all {
		if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(rs.Labels)) {
			l.queue.Enqueue(d)
		}
	}
}

// podChanged wakes a Recreate Deployment when a pod of its has ended: the next template's pods wait for the last of them.
func (l *loop) podChanged(oldObj, newObj any) {
	pod, ok := controller.Object[*corev1.Pod](newObj)
	if !ok || oldObj != newObj && !controller.Finished(pod) {
		return
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	if rs, err := l.sets.ReplicaSets(pod.Namespace).Get(ref.Name); err == nil && rs.UID == ref.UID {
		if d := l.ownerOf(rs); d != nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			l.queue.Enqueue(d)
		}
	}
}

func (l *loop) enqueueOwner(rs *appsv1.ReplicaSet) {
	if d := l.ownerOf(rs); d != nil {
		l.queue.Enqueue(d)
	}
}

func (l *loop) ownerOf(rs *appsv1.ReplicaSet) *appsv1.Deployment {
	ref := metav1.GetControllerOfNoCopy(rs)
	if ref == nil || ref.Kind != gvk.Kind {
		return nil
	}
	if d, err := l.deployments.Deployments(rs.Namespace).Get(ref.Name); err == nil && d.UID == ref.UID {
		return d
	}
	return nil
}
