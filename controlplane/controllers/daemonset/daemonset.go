// SPDX-License-Identifier: Apache-2.0

// Package daemonset runs one pod of each DaemonSet on every node that its template fits.
//
// It watches DaemonSets, Pods, Nodes and ControllerRevisions. It creates pods pinned to a node by affinity (the scheduler binds them), deletes pods, keeps the
// revisions that kubectl rollout reads, and writes the DaemonSet's status.
//
//	nodes + pods -> who should have one -> create / delete (manage) -> replace old ones within maxUnavailable or maxSurge (update) -> status
package daemonset

import (
	"context"
	"sync"

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

var gvk = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

type loop struct {
	c           *controller.Context
	queue       *controller.Queue
	daemons     appslisters.DaemonSetLister
	nodes       corelisters.NodeLister
	podsOf      controller.Owned[*corev1.Pod]
	revisionsOf controller.Owned[*appsv1.ControllerRevision]
	expect      *controller.Expectations
	pods        controller.Pods
	synced      []cache.InformerSynced

	mu      sync.Mutex
	backoff map[string]failure // of failed pods, by DaemonSet, generation and node
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("daemon-set-controller", "daemonset-controller")
	daemons, pods, nodes := c.Informers.Apps().V1().DaemonSets(), c.Informers.Core().V1().Pods(), c.Informers.Core().V1().Nodes()
	revisions := c.Informers.Apps().V1().ControllerRevisions()
	l := &loop{
		c: c, daemons: daemons.Lister(), nodes: nodes.Lister(),
		podsOf:      controller.OwnedBy[*corev1.Pod](pods.Informer()),
		revisionsOf: controller.OwnedBy[*appsv1.ControllerRevision](revisions.Informer()),
		expect:      controller.NewExpectations(c.Clock),
		pods:        controller.Pods{Client: c.Client, Events: c.Events},
		backoff:     map[string]failure{},
		synced: []cache.InformerSynced{
			daemons.Informer().HasSynced, pods.Informer().HasSynced, nodes.Informer().HasSynced, revisions.Informer().HasSynced,
		},
	}
	l.queue = c.Queue("daemonset", l.sync)
	controller.On(daemons.Informer(), l.queue.Enqueue)
	controller.Watch(pods.Informer(), l.podChanged)
	controller.Watch(nodes.Informer(), l.nodeChanged)
	controller.On(revisions.Informer(), func(obj any) {
		if r, ok := controller.Object[*appsv1.ControllerRevision](obj); ok {
			if ds := l.ownerOf(r); ds != nil {
				l.queue.Enqueue(ds)
			}
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	cached, err := l.daemons.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		l.expect.Forget(key)
		return nil
	} else if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(cached.Spec.Selector)
	if err != nil || selector.Empty() {
		l.c.Events.Event(cached, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if cached.DeletionTimestamp != nil {
		return nil
	}
	s := &state{loop: l, key: key, ds: cached.DeepCopy()}
	if err := s.load(ctx, selector); err != nil {
		return err
	}
	var manageErr error
	if overdue := l.expect.Wait(key); overdue > 0 {
		l.queue.AddAfter(key, overdue)
	} else {
		manageErr = s.manage(ctx)
		if manageErr == nil && !s.wrote && s.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
			manageErr = s.update(ctx)
		}
	}
	if err := s.trim(ctx); err != nil && manageErr == nil {
		manageErr = err
	}
	if err := s.writeStatus(ctx); err != nil && manageErr == nil {
		manageErr = err
	}
	return manageErr
}

// state is one sync of one DaemonSet.
type state struct {
	*loop
	key     string
	ds      *appsv1.DaemonSet // a copy
	hash    string            // of the current revision
	history controller.History
	mine    []*corev1.Pod
	byNode  map[string][]*corev1.Pod
	nodes   []*corev1.Node
	wrote   bool // pods were created or deleted, so mine is out of date
}

func (s *state) load(ctx context.Context, selector labels.Selector) error {
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return s.c.Client.AppsV1().DaemonSets(s.ds.Namespace).Get(ctx, s.ds.Name, metav1.GetOptions{})
	}
	revisions, err := controller.ClaimRevisions(ctx, s.c.Client, s.ds, gvk, s.ds.Spec.Selector, s.revisionsOf.Candidates(s.ds), fresh)
	if err != nil {
		return err
	}
	s.history = controller.History{Client: s.c.Client, Owner: s.ds, Kind: gvk, Template: &s.ds.Spec.Template, Revisions: revisions}
	collisions := ptr.Deref(s.ds.Status.CollisionCount, 0)
	current, err := s.history.Current(ctx, &collisions)
	if collisions != ptr.Deref(s.ds.Status.CollisionCount, 0) {
		s.ds.Status.CollisionCount = &collisions
	}
	if err != nil {
		return err
	}
	s.hash = current.Labels[appsv1.ControllerRevisionHashLabelKey]
	claim := controller.Claim[*corev1.Pod]{Owner: s.ds, Kind: gvk, Selector: selector, Patch: s.pods.Patch, Fresh: fresh, Filter: controller.Active}
	if s.mine, err = claim.Run(ctx, s.podsOf.Candidates(s.ds)); err != nil {
		return err
	}
	s.byNode = map[string][]*corev1.Pod{}
	for _, pod := range s.mine {
		node := nodeOf(pod)
		s.byNode[node] = append(s.byNode[node], pod)
	}
	s.nodes, err = s.loop.nodes.List(labels.Everything())
	return err
}

// trim deletes revisions beyond the limit that no pod runs.
func (s *state) trim(ctx context.Context) error {
	live := map[string]bool{s.hash: true}
	for _, pod := range s.mine {
		live[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	return s.history.Trim(ctx, int(ptr.Deref(s.ds.Spec.RevisionHistoryLimit, 10)), live)
}

// podChanged lowers expectations and asks for a sync of the pod's DaemonSet.
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
	if ds := l.ownerOf(pod); ds != nil {
		key := controller.Key(ds)
		if old == pod || pod.DeletionTimestamp != nil {
			l.expect.Deleted(key, pod.UID)
		}
		if old == nil {
			l.expect.Created(key)
		}
		l.queue.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(pod) != nil || old == pod || old != nil && labels.Equals(old.Labels, pod.Labels) && metav1.GetControllerOfNoCopy(old) == nil {
		return
	}
	all, err := l.daemons.DaemonSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range all {
		if s, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) {
			l.queue.Enqueue(ds)
		}
	}
}

// nodeChanged asks for a sync of every DaemonSet when a node came, went, or changed in what decides where daemons run.
func (l *loop) nodeChanged(oldObj, newObj any) {
	node, ok := controller.Object[*corev1.Node](newObj)
	if !ok {
		return
	}
	old, _ := controller.Object[*corev1.Node](oldObj)
	if old != nil && old != node && labels.Equals(old.Labels, node.Labels) && equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		return
	}
	all, err := l.daemons.List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range all {
		if old == nil || old == node || fits(ds, old) != fits(ds, node) {
			l.queue.Enqueue(ds)
		}
	}
}

func (l *loop) ownerOf(obj metav1.Object) *appsv1.DaemonSet {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil || ref.Kind != gvk.Kind {
		return nil
	}
	if ds, err := l.daemons.DaemonSets(obj.GetNamespace()).Get(ref.Name); err == nil && ds.UID == ref.UID {
		return ds
	}
	return nil
}
