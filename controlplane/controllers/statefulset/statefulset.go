// SPDX-License-Identifier: Apache-2.0

// Package statefulset keeps the pods of each StatefulSet: numbered, each with its own name and volumes, started and stopped in order.
//
// It watches StatefulSets, Pods, PersistentVolumeClaims and ControllerRevisions. It creates and deletes pods, creates claims and sets their owners as the retention
// policy says, keeps revisions, and writes the StatefulSet's status.
//
//	revisions -> pods by ordinal -> replicas up (low to high) -> surplus down (high to low) -> old revisions replaced (high to low, above the partition) -> status
package statefulset

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

var gvk = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

type loop struct {
	c           *controller.Context
	queue       *controller.Queue
	sets        appslisters.StatefulSetLister
	claims      corelisters.PersistentVolumeClaimLister
	podsOf      controller.Owned[*corev1.Pod]
	revisionsOf controller.Owned[*appsv1.ControllerRevision]
	podIO       controller.Pods
	expect      *controller.Expectations
	writes      *controller.Writes
	synced      []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("statefulset-controller", "statefulset-controller")
	sets, pods, claims := c.Informers.Apps().V1().StatefulSets(), c.Informers.Core().V1().Pods(), c.Informers.Core().V1().PersistentVolumeClaims()
	revisions := c.Informers.Apps().V1().ControllerRevisions()
	l := &loop{
		c: c, sets: sets.Lister(), claims: claims.Lister(),
		podsOf:      controller.OwnedBy[*corev1.Pod](pods.Informer()),
		revisionsOf: controller.OwnedBy[*appsv1.ControllerRevision](revisions.Informer()),
		podIO:       controller.Pods{Client: c.Client, Events: c.Events},
		expect:      controller.NewExpectations(c.Clock), writes: controller.NewWrites(c.Clock),
		synced: []cache.InformerSynced{
			sets.Informer().HasSynced, pods.Informer().HasSynced, claims.Informer().HasSynced, revisions.Informer().HasSynced,
		},
	}
	l.queue = c.Queue("statefulset", l.sync)
	controller.On(sets.Informer(), l.queue.Enqueue)
	controller.Watch(pods.Informer(), l.podChanged)
	controller.Watch(claims.Informer(), func(old, obj any) {
		// A pod may wait for a deleted claim of its name to go before it is created anew.
		if claim, ok := controller.Object[*corev1.PersistentVolumeClaim](obj); ok && old == obj {
			l.wakeByLabels(claim.Namespace, claim.Labels)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	cached, err := l.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		l.expect.Forget(key)
		l.writes.Forget(key)
		return nil
	} else if err != nil {
		return err
	}
	// status.currentReplicas decides which revision a pod gets, so it must be the one written last.
	if !l.writes.Seen(key, func(string) metav1.Object { return cached }) || !l.expect.Satisfied(key) {
		l.queue.AddAfter(key, 100*time.Millisecond) // the awaited event adds it sooner
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(cached.Spec.Selector)
	if err != nil || selector.Empty() {
		l.c.Events.Event(cached, corev1.EventTypeWarning, "SelectingAll", "This stateful set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	s := &state{loop: l, key: key, set: cached.DeepCopy(), now: l.c.Clock.Now()}
	if err := s.load(ctx, selector); err != nil {
		return err
	}
	actErr := s.act(ctx)
	if err := s.writeStatus(ctx, cached); err != nil && actErr == nil {
		actErr = err
	}
	if s.wait > 0 {
		l.queue.AddAfter(key, s.wait)
	}
	if actErr != nil {
		return actErr
	}
	return s.history.Trim(ctx, int(ptr.Deref(s.set.Spec.RevisionHistoryLimit, 10)), s.liveRevisions())
}

// act takes the next steps. Each of the three stages ends the sync when it has to wait for a pod.
func (s *state) act(ctx context.Context) error {
	if err := s.retainClaims(ctx); err != nil {
		return err
	}
	if s.set.DeletionTimestamp != nil {
		return nil
	}
	for _, step := range []func(context.Context) (done bool, err error){s.fill, s.shrink, s.roll} {
		if done, err := step(ctx); err != nil || !done {
			return err
		}
	}
	return nil
}

func (s *state) writeStatus(ctx context.Context, cached *appsv1.StatefulSet) error {
	status := s.status()
	if equality.Semantic.DeepEqual(status, cached.Status) {
		return nil
	}
	set := s.set.DeepCopy()
	set.Status = status
	updated, err := s.c.Client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	s.writes.Wrote(s.key, updated)
	return nil
}

func (l *loop) podChanged(oldObj, newObj any) {
	pod, ok := controller.Object[*corev1.Pod](newObj)
	if !ok {
		return
	}
	old, _ := controller.Object[*corev1.Pod](oldObj)
	if old != nil && old != pod {
		if was := l.ownerOf(old); was != nil {
			l.queue.Enqueue(was)
		}
	}
	if set := l.ownerOf(pod); set != nil {
		key := controller.Key(set)
		if old == nil {
			l.expect.Created(key)
		}
		if old == pod || pod.DeletionTimestamp != nil {
			l.expect.Deleted(key, pod.UID)
		}
		l.queue.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(pod) == nil && old != pod && (old == nil || !labels.Equals(old.Labels, pod.Labels) || metav1.GetControllerOfNoCopy(old) != nil) {
		l.wakeByLabels(pod.Namespace, pod.Labels)
	}
}

func (l *loop) wakeByLabels(namespace string, set map[string]string) {
	all, err := l.sets.StatefulSets(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, owner := range all {
		if s, err := metav1.LabelSelectorAsSelector(owner.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(set)) {
			l.queue.Enqueue(owner)
		}
	}
}

func (l *loop) ownerOf(obj metav1.Object) *appsv1.StatefulSet {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil || ref.Kind != gvk.Kind {
		return nil
	}
	if set, err := l.sets.StatefulSets(obj.GetNamespace()).Get(ref.Name); err == nil && set.UID == ref.UID {
		return set
	}
	return nil
}
