// SPDX-License-Identifier: Apache-2.0

// Package endpointslice keeps the EndpointSlices of each Service that has a selector equal to the pods it selects, with topology hints.
//
// It watches Services, Pods, Nodes and EndpointSlices and writes EndpointSlices labelled as its own. How endpoints are packed into slices, and the hints, are
// k8s.io/endpointslice's: this package decides when to reconcile and feeds it.
package endpointslice

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/metrics"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	// managedBy is the value of the managed-by label by which proxies and other controllers recognise these slices.
	managedBy    = "endpointslice-controller.k8s.io"
	maxEndpoints = 100 // per slice
	// batch lets a burst of pod changes become one write per slice. It bounds what it adds to the time until a change is known.
	batch = 50 * time.Millisecond
	// nodesKey stands in the queue for the nodes; no service has a key without a slash.
	nodesKey = "nodes"
)

type loop struct {
	c          *controller.Context
	queue      *controller.Queue
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	slices     discoverylisters.EndpointSliceLister
	tracker    *util.EndpointSliceTracker
	triggers   *util.TriggerTimeTracker
	topology   *topologycache.TopologyCache
	reconciler *endpointslice.Reconciler
	synced     []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("endpointslice-controller", "endpoint-slice-controller")
	services, pods, nodes := c.Informers.Core().V1().Services(), c.Informers.Core().V1().Pods(), c.Informers.Core().V1().Nodes()
	slices := c.Informers.Discovery().V1().EndpointSlices()
	metrics.RegisterMetrics()
	l := &loop{
		c: c, services: services.Lister(), pods: pods.Lister(), nodes: nodes.Lister(), slices: slices.Lister(),
		tracker: util.NewEndpointSliceTracker(), triggers: util.NewTriggerTimeTracker(), topology: topologycache.NewTopologyCache(),
		synced: []cache.InformerSynced{
			services.Informer().HasSynced, pods.Informer().HasSynced, nodes.Informer().HasSynced, slices.Informer().HasSynced,
		},
	}
	l.reconciler = endpointslice.NewReconciler(c.Client, l.nodes, maxEndpoints, l.tracker, l.topology, c.Events, managedBy,
		endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	l.queue = c.Queue("endpointslice", l.sync)
	controller.On(services.Informer(), l.queue.Enqueue)
	controller.Watch(pods.Informer(), l.podChanged)
	controller.Watch(slices.Informer(), l.sliceChanged)
	controller.Watch(nodes.Informer(), l.nodeChanged)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	if key == nodesKey {
		return l.syncNodes(ctx)
	}
	namespace, name := controller.SplitKey(key)
	service, err := l.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		l.triggers.DeleteService(namespace, name)
		l.reconciler.DeleteService(namespace, name)
		l.tracker.DeleteService(namespace, name)
		return nil // the garbage collector deletes the slices
	} else if err != nil {
		return err
	}
	if service.Spec.Selector == nil || service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil // somebody else writes its slices, or it has none
	}
	pods, err := l.pods.Pods(namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	slices, err := l.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{
		discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: managedBy,
	}))
	if err != nil {
		return err
	}
	slices = controller.Filter(slices, func(s *discoveryv1.EndpointSlice) bool { return s.DeletionTimestamp == nil })
	if l.tracker.StaleSlices(service, slices) {
		l.queue.AddAfter(key, batch) // our own last writes are not in the cache yet
		return nil
	}
	trigger := l.triggers.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	if err := l.reconciler.Reconcile(klog.FromContext(ctx), service, pods, slices, trigger); err != nil {
		l.c.Events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
		return err
	}
	return nil
}

// podChanged wakes the services whose endpoints a pod's change can alter.
func (l *loop) podChanged(old, obj any) {
	if old == obj {
		old = nil
	}
	if old == nil {
		pod, ok := controller.Object[*corev1.Pod](obj)
		if !ok {
			return
		}
		obj = pod
	}
	projection := util.GetPodUpdateProjectionKey(old, obj)
	if projection == nil {
		return
	}
	keys, err := util.GetServicesToUpdate(l.services, projection)
	if err != nil {
		klog.Background().Error(err, "Services of a pod are unknown", "controller", "endpointslice")
		return
	}
	for key := range keys {
		l.queue.AddAfter(key, batch)
	}
}

// sliceChanged wakes the service whose slices somebody else touched.
func (l *loop) sliceChanged(oldObj, newObj any) {
	slice, ok := controller.Object[*discoveryv1.EndpointSlice](newObj)
	if !ok {
		return
	}
	wake := false
	switch old, _ := controller.Object[*discoveryv1.EndpointSlice](oldObj); {
	case old == slice: // deleted
		wake = l.reconciler.ManagedByController(slice) && l.tracker.Has(slice) && !l.tracker.HandleDeletion(slice)
	case old == nil:
		wake = l.reconciler.ManagedByController(slice) && l.tracker.ShouldSync(slice)
	default:
		if was, is := old.Labels[discoveryv1.LabelServiceName], slice.Labels[discoveryv1.LabelServiceName]; was != is {
			l.queue.AddAfter(slice.Namespace+"/"+was, batch)
			wake = true
		}
		wake = wake || l.reconciler.ManagedByChanged(old, slice) || l.reconciler.ManagedByController(slice) && l.tracker.ShouldSync(slice)
	}
	if name := slice.Labels[discoveryv1.LabelServiceName]; wake && name != "" {
		l.queue.AddAfter(slice.Namespace+"/"+name, batch)
	}
}

// nodeChanged has what topology hints depend on recomputed, which wakes the services that a lack of capacity had left without hints.
func (l *loop) nodeChanged(oldObj, newObj any) {
	node, ok := controller.Object[*corev1.Node](newObj)
	if !ok {
		return
	}
	if old, _ := controller.Object[*corev1.Node](oldObj); old != nil && old != node && sameForTopology(old, node) {
		return
	}
	l.queue.AddAfter(nodesKey, batch) // many nodes change at once when a cluster starts
}

func (l *loop) syncNodes(ctx context.Context) error {
	nodes, err := l.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	l.topology.SetNodes(klog.FromContext(ctx), nodes)
	for _, key := range l.topology.GetOverloadedServices() {
		l.queue.Add(key)
	}
	return nil
}

func sameForTopology(a, b *corev1.Node) bool {
	return a.Labels[corev1.LabelTopologyZone] == b.Labels[corev1.LabelTopologyZone] && labels.Equals(a.Labels, b.Labels) &&
		a.Status.Allocatable.Cpu().Equal(*b.Status.Allocatable.Cpu()) && nodeReady(a) == nodeReady(b)
}

func nodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
