// SPDX-License-Identifier: Apache-2.0

// Package nodelifecycle notices nodes that stopped answering, and turns what nodes report into taints.
//
// It watches Nodes and the Leases that kubelets renew; Pods it only looks up. It writes the Unknown conditions of a silent node, taints by
// condition (NoSchedule at once, NoExecute at the pace of the node's zone), and the Ready condition of pods on nodes that are not ready. It deletes no pod: package
// tainteviction acts on the taints.
//
//	lease or status heartbeat -> lastSeen -> silent for gracePeriod? -> conditions Unknown -> taints -> pods not ready
//
// Heartbeats count when this process saw them, so that clocks of nodes need not agree with its own.
package nodelifecycle

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationinformers "k8s.io/client-go/informers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	gracePeriod  = 50 * time.Second // of silence until a node counts as unknown
	startupGrace = time.Minute      // the same for a node that has not reported yet
)

type loop struct {
	c      *controller.Context
	queue  *controller.Queue
	nodes  corelisters.NodeLister
	podsOn func(node string) []*corev1.Pod
	leases cache.SharedIndexInformer
	synced []cache.InformerSynced

	mu    sync.Mutex
	seen  map[string]*heartbeat // by node
	zones map[string]*zone
}

// heartbeat is the last sign of life of a node.
type heartbeat struct {
	at    time.Time // by our clock
	renew *metav1.MicroTime
	ready *corev1.NodeCondition
	zone  string
	state nodeState
	// downSince is when the state last ceased to be ready.
	downSince time.Time
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("node-controller", "node-controller")
	nodes, pods := c.Informers.Core().V1().Nodes(), c.Informers.Core().V1().Pods()
	leases := coordinationinformers.NewLeaseInformer(c.Reader, corev1.NamespaceNodeLease, 0, cache.Indexers{})
	l := &loop{
		c: c, nodes: nodes.Lister(), podsOn: controller.PodsByNode(pods.Informer()), leases: leases,
		seen: map[string]*heartbeat{}, zones: map[string]*zone{},
		synced: []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced, leases.HasSynced},
	}
	l.queue = c.Queue("nodelifecycle", l.sync)
	controller.Watch(nodes.Informer(), l.nodeChanged)
	controller.On(leases, func(obj any) {
		if lease, ok := controller.Object[*coordinationv1.Lease](obj); ok {
			l.renewed(lease)
		}
	})
	controller.Watch(pods.Informer(), func(old, obj any) {
		// A pod that is bound to, or reports from, a node that is not ready must not count as ready.
		if pod, ok := controller.Object[*corev1.Pod](obj); ok && old != obj && pod.Spec.NodeName != "" && controller.Ready(pod) && l.isDown(pod.Spec.NodeName) {
			l.queue.Add(pod.Spec.NodeName)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.leases.RunWithContext(ctx)
	}()
	err := l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
	<-done
	return err
}

// sync brings one node's conditions, taints and pods in line with its last sign of life, and comes back when the next silence would be too long.
func (l *loop) sync(ctx context.Context, name string) error {
	node, err := l.nodes.Get(name)
	if err != nil {
		l.forget(name)
		return controller.IgnoreNotFound(err)
	}
	now := l.c.Clock.Now()
	silentAt := l.silentAt(node)
	if !now.Before(silentAt) {
		if node, err = l.markUnknown(ctx, node); err != nil {
			return controller.IgnoreNotFound(err)
		}
	} else {
		l.queue.AddAfter(name, silentAt.Sub(now))
	}
	state := stateOf(node)
	l.account(node, state)
	wait, err := l.taint(ctx, node, state)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if wait > 0 {
		l.queue.AddAfter(name, wait)
	}
	if state == ready {
		return nil
	}
	return l.markPods(ctx, node)
}

// nodeChanged counts a changed Ready condition as a sign of life, and asks for a sync when anything changed that a sync looks at.
func (l *loop) nodeChanged(oldObj, newObj any) {
	node, ok := controller.Object[*corev1.Node](newObj)
	if !ok {
		return
	}
	if oldObj != newObj {
		l.mu.Lock()
		h := l.heartbeatLocked(node.Name)
		c := condition(node, corev1.NodeReady)
		if c != nil && c.Status != corev1.ConditionUnknown && !equality.Semantic.DeepEqual(c, h.ready) {
			h.at = l.c.Clock.Now()
		}
		h.ready = c
		l.mu.Unlock()
	}
	if old, _ := controller.Object[*corev1.Node](oldObj); old != nil && old != node && sameHealth(old, node) {
		return
	}
	l.queue.Enqueue(newObj)
}

// renewed counts a renewed lease as a sign of life. It asks for no sync: the one that waits for the silence looks at the time again.
func (l *loop) renewed(lease *coordinationv1.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.heartbeatLocked(lease.Name)
	if lease.Spec.RenewTime != nil && (h.renew == nil || h.renew.Before(lease.Spec.RenewTime)) {
		h.renew, h.at = lease.Spec.RenewTime, l.c.Clock.Now()
	}
}

func (l *loop) heartbeatLocked(name string) *heartbeat {
	h := l.seen[name]
	if h == nil {
		h = &heartbeat{at: l.c.Clock.Now()}
		l.seen[name] = h
	}
	return h
}

// silentAt is when node's silence becomes too long.
func (l *loop) silentAt(node *corev1.Node) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.heartbeatLocked(node.Name)
	if condition(node, corev1.NodeReady) == nil {
		return h.at.Add(startupGrace)
	}
	return h.at.Add(gracePeriod)
}

func (l *loop) isDown(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.seen[name]
	return h != nil && h.state != ready && h.state != unaccounted
}

// sameHealth reports whether two versions of a node differ in heartbeat times only.
func sameHealth(a, b *corev1.Node) bool {
	if a.Spec.Unschedulable != b.Spec.Unschedulable || a.DeletionTimestamp != b.DeletionTimestamp || len(a.Status.Conditions) != len(b.Status.Conditions) ||
		!equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) || zoneOf(a) != zoneOf(b) {
		return false
	}
	for i := range a.Status.Conditions {
		if a.Status.Conditions[i].Type != b.Status.Conditions[i].Type || a.Status.Conditions[i].Status != b.Status.Conditions[i].Status {
			return false
		}
	}
	return true
}

func condition(node *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == t {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}
