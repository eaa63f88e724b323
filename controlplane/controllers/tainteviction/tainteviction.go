// SPDX-License-Identifier: Apache-2.0

// Package tainteviction deletes pods from nodes whose NoExecute taints they do not, or no longer, tolerate.
//
// It watches Pods and Nodes. It sets the DisruptionTarget condition of a pod and deletes it. When a pod's time ends follows from the taint's timeAdded and the
// pod's tolerationSeconds alone, so a restart of this process neither shortens nor lengthens it. A taint that does not say when it was added counts from when this
// process first saw it.
package tainteviction

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c      *controller.Context
	queue  *controller.Queue
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	podsOn func(node string) []*corev1.Pod
	synced []cache.InformerSynced

	mu sync.Mutex
	// seen is when a taint without timeAdded was first seen, by node.
	seen map[string]map[corev1.Taint]time.Time
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("node-controller", "taint-eviction-controller")
	nodes, pods := c.Informers.Core().V1().Nodes(), c.Informers.Core().V1().Pods()
	l := &loop{
		c: c, nodes: nodes.Lister(), pods: pods.Lister(), podsOn: controller.PodsByNode(pods.Informer()),
		synced: []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced}, seen: map[string]map[corev1.Taint]time.Time{},
	}
	l.queue = c.Queue("tainteviction", l.sync)
	controller.Watch(nodes.Informer(), l.nodeChanged)
	controller.Watch(pods.Informer(), func(old, obj any) {
		pod, ok := controller.Object[*corev1.Pod](obj)
		if !ok || old == obj || pod.Spec.NodeName == "" {
			return
		}
		was, _ := controller.Object[*corev1.Pod](old)
		if was == nil || was.Spec.NodeName != pod.Spec.NodeName || !equality.Semantic.DeepEqual(was.Spec.Tolerations, pod.Spec.Tolerations) {
			l.queue.Enqueue(pod)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync deletes a pod whose time is over, or comes back when it will be.
func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	pod, err := l.pods.Pods(namespace).Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil || controller.Finished(pod) {
		return nil
	}
	node, err := l.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return controller.IgnoreNotFound(err) // pods of an absent node are podgc's
	}
	now := l.c.Clock.Now()
	due, ever := deadline(ctx, pod, l.taints(node, now), now)
	if !ever {
		return nil
	}
	if wait := due.Sub(now); wait > 0 {
		l.queue.AddAfter(key, wait)
		return nil
	}
	return l.evict(ctx, pod, now)
}

// taints are a node's NoExecute taints, each with the time since when it counts.
func (l *loop) taints(node *corev1.Node, now time.Time) []corev1.Taint {
	taints, seen := noExecute(node), map[corev1.Taint]time.Time{}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range taints {
		if taints[i].TimeAdded != nil {
			continue
		}
		taint := taints[i]
		since, known := l.seen[node.Name][taint]
		if !known {
			since = now
		}
		seen[taint] = since
		taints[i].TimeAdded = &metav1.Time{Time: since}
	}
	if len(seen) == 0 {
		delete(l.seen, node.Name)
	} else {
		l.seen[node.Name] = seen
	}
	return taints
}

// deadline is when pod has to leave a node with these taints, false when it may stay for good.
func deadline(ctx context.Context, pod *corev1.Pod, taints []corev1.Taint, now time.Time) (due time.Time, ever bool) {
	arrived := pod.CreationTimestamp.Time
	if c := controller.PodCondition(pod, corev1.PodScheduled); c != nil && c.LastTransitionTime.After(arrived) {
		arrived = c.LastTransitionTime.Time
	}
	for i := range taints {
		taint := &taints[i]
		since := arrived // of both being there
		if taint.TimeAdded.After(since) {
			since = taint.TimeAdded.Time
		}
		stay, forever := tolerated(ctx, pod, taint)
		if forever {
			continue
		}
		if end := since.Add(stay); !ever || end.Before(due) {
			due, ever = end, true
		}
		if stay <= 0 {
			return now, true
		}
	}
	return due, ever
}

// tolerated is how long pod may stay with taint: the shortest of the tolerations that match. None means not at all.
func tolerated(ctx context.Context, pod *corev1.Pod, taint *corev1.Taint) (stay time.Duration, forever bool) {
	matched := false
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		if !t.ToleratesTaint(klog.FromContext(ctx), taint, true) {
			continue
		}
		if t.TolerationSeconds == nil {
			forever = forever || !matched
			matched = true
			continue
		}
		if d := time.Duration(max(0, *t.TolerationSeconds)) * time.Second; !matched || forever || d < stay {
			stay, forever = d, false
		}
		matched = true
	}
	return stay, forever
}

func (l *loop) evict(ctx context.Context, pod *corev1.Pod, now time.Time) error {
	l.c.Events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", controller.Key(pod))
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
			Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.NewTime(now),
		}}},
	})
	if err != nil {
		return err
	}
	_, err = l.c.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	err = l.c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if apierrors.IsConflict(err) {
		return nil // another pod has the name
	}
	return controller.IgnoreNotFound(err)
}

// nodeChanged looks at all pods of a node whose NoExecute taints changed.
func (l *loop) nodeChanged(oldObj, newObj any) {
	node, ok := controller.Object[*corev1.Node](newObj)
	if !ok {
		return
	}
	if oldObj == newObj { // the node is gone, and its taints with it
		l.mu.Lock()
		delete(l.seen, node.Name)
		l.mu.Unlock()
		return
	}
	l.taints(node, l.c.Clock.Now())
	old, _ := controller.Object[*corev1.Node](oldObj)
	if old != nil && equality.Semantic.DeepEqual(noExecute(old), noExecute(node)) || len(noExecute(node)) == 0 {
		return
	}
	for _, pod := range l.podsOn(node.Name) {
		l.queue.Enqueue(pod)
	}
}

func noExecute(node *corev1.Node) []corev1.Taint {
	return controller.Filter(node.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute })
}
