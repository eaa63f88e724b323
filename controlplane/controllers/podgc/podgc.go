// SPDX-License-Identifier: Apache-2.0

// Package podgc deletes pods that nobody else will: finished ones beyond a number, those of nodes that no longer exist, those that were deleted before they were ever
// bound to a node, and those of nodes declared out of service.
//
// It lists Pods and Nodes from their caches every 20 seconds; it sets the Failed phase and the DisruptionTarget condition of a pod it takes from a lost
// node, and deletes pods without grace.
package podgc

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	interval     = 20 * time.Second
	quarantine   = 40 * time.Second // a node must be absent this long before its pods go
	keepFinished = 12500            // finished pods of the whole cluster
)

type loop struct {
	c      *controller.Context
	pods   corelisters.PodLister
	nodes  corelisters.NodeLister
	synced []cache.InformerSynced
	absent map[string]time.Time // nodes that pods name and nobody lists, since when
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("pod-garbage-collector", "pod-garbage-collector")
	pods, nodes := c.Informers.Core().V1().Pods(), c.Informers.Core().V1().Nodes()
	return &loop{
		c: c, pods: pods.Lister(), nodes: nodes.Lister(), absent: map[string]time.Time{},
		synced: []cache.InformerSynced{pods.Informer().HasSynced, nodes.Informer().HasSynced},
	}
}

func (l *loop) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), l.synced...) {
		return ctx.Err()
	}
	tick := l.c.Clock.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C():
			if err := l.sweep(ctx); err != nil {
				klog.FromContext(ctx).Error(err, "Pods could not be collected, the next round tries again", "controller", "podgc")
			}
		}
	}
}

// sweep is one round over all pods.
func (l *loop) sweep(ctx context.Context) error {
	pods, err := l.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	var finished []*corev1.Pod
	var firstErr error
	note := func(err error) {
		if firstErr == nil {
			firstErr = controller.IgnoreNotFound(err)
		}
	}
	mentioned := map[string]bool{}
	for _, pod := range pods {
		mentioned[pod.Spec.NodeName] = true
		switch {
		case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
			note(l.remove(ctx, pod, "", ""))
		case pod.Spec.NodeName == "":
		case l.lost(ctx, pod.Spec.NodeName):
			note(l.remove(ctx, pod, "DeletionByPodGC", "PodGC: node no longer exists"))
		case pod.DeletionTimestamp != nil && l.outOfService(pod.Spec.NodeName):
			note(l.remove(ctx, pod, "DeletionByPodGC", "PodGC: node is out of service"))
		case controller.Finished(pod):
			finished = append(finished, pod)
		}
	}
	for name := range l.absent {
		if !mentioned[name] {
			delete(l.absent, name)
		}
	}
	if surplus := len(finished) - keepFinished; surplus > 0 {
		slices.SortFunc(finished, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		for _, pod := range finished[:surplus] {
			note(l.remove(ctx, pod, "", ""))
		}
	}
	return firstErr
}

// lost reports whether a node has been absent for the quarantine and the API server does not know it either.
func (l *loop) lost(ctx context.Context, name string) bool {
	if _, err := l.nodes.Get(name); err == nil {
		delete(l.absent, name)
		return false
	}
	now := l.c.Clock.Now()
	since, known := l.absent[name]
	if !known {
		l.absent[name] = now
		return false
	}
	if now.Sub(since) < quarantine {
		return false
	}
	_, err := l.c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

func (l *loop) outOfService(name string) bool {
	node, err := l.nodes.Get(name)
	if err != nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// remove marks pod as failed, with a reason as failed by a disruption, so that its Job can count it rightly, and deletes it without grace.
func (l *loop) remove(ctx context.Context, pod *corev1.Pod, reason, message string) error {
	if !controller.Finished(pod) {
		marked := pod.DeepCopy()
		marked.Status.Phase = corev1.PodFailed
		c := corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(l.c.Clock.Now()),
		}
		if had := controller.PodCondition(marked, corev1.DisruptionTarget); reason == "" {
			// It never ran: nothing disrupted it.
		} else if had != nil {
			*had = c
		} else {
			marked.Status.Conditions = append(marked.Status.Conditions, c)
		}
		if _, err := l.c.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, marked, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	var now int64
	return l.c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}
