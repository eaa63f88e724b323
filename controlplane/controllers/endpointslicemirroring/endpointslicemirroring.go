// SPDX-License-Identifier: Apache-2.0

// Package endpointslicemirroring copies Endpoints that people write by hand, for Services without a selector, into EndpointSlices, which is where proxies look.
//
// It watches Endpoints, Services and EndpointSlices, and writes EndpointSlices labelled as its own.
package endpointslicemirroring

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	managedBy    = "endpointslicemirroring-controller.k8s.io"
	perSlice     = 100
	perSubset    = 1000 // addresses, ready ones first; more are not mirrored
	leaderMark   = "control-plane.alpha.kubernetes.io/leader"
	batch        = 100 * time.Millisecond
	triggerStamp = corev1.EndpointsLastChangeTriggerTime
)

type loop struct {
	c         *controller.Context
	queue     *controller.Queue
	endpoints corelisters.EndpointsLister
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
	synced    []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller")
	endpoints, services, slices := c.Informers.Core().V1().Endpoints(), c.Informers.Core().V1().Services(), c.Informers.Discovery().V1().EndpointSlices()
	l := &loop{
		c: c, endpoints: endpoints.Lister(), services: services.Lister(), slices: slices.Lister(),
		synced: []cache.InformerSynced{endpoints.Informer().HasSynced, services.Informer().HasSynced, slices.Informer().HasSynced},
	}
	l.queue = c.Queue("endpointslicemirroring", l.sync)
	controller.On(endpoints.Informer(), l.queue.Enqueue)
	controller.On(services.Informer(), l.queue.Enqueue)
	controller.Watch(slices.Informer(), func(_, obj any) {
		if s, ok := controller.Object[*discoveryv1.EndpointSlice](obj); ok && s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			l.queue.AddAfter(s.Namespace+"/"+s.Labels[discoveryv1.LabelServiceName], batch)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync makes the mirrored slices of one Service those that its Endpoints ask for.
func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	have, err := l.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{
		discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: managedBy,
	}))
	if err != nil {
		return err
	}
	var want []*discoveryv1.EndpointSlice
	service, serr := l.services.Services(namespace).Get(name)
	ep, eerr := l.endpoints.Endpoints(namespace).Get(name)
	if serr == nil && eerr == nil && service.Spec.Selector == nil && mirrored(ep) {
		want = desired(ep)
	} else if controller.IgnoreNotFound(serr) != nil || controller.IgnoreNotFound(eerr) != nil {
		return cmp.Or(serr, eerr)
	}
	api := l.c.Client.DiscoveryV1().EndpointSlices(namespace)
	for _, w := range want {
		i := slices.IndexFunc(have, func(h *discoveryv1.EndpointSlice) bool { return h.Name == w.Name })
		if i < 0 {
			if _, err := api.Create(ctx, w, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) &&
				!apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return err
			}
			continue
		}
		h := have[i].DeepCopy()
		have = slices.Delete(slices.Clone(have), i, i+1)
		if equality.Semantic.DeepEqual(h.Endpoints, w.Endpoints) && equality.Semantic.DeepEqual(h.Ports, w.Ports) &&
			maps.Equal(h.Labels, w.Labels) && maps.Equal(h.Annotations, w.Annotations) {
			continue
		}
		h.Endpoints, h.Ports, h.Labels, h.Annotations = w.Endpoints, w.Ports, w.Labels, w.Annotations
		if _, err := api.Update(ctx, h, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	for _, h := range have {
		if err := api.Delete(ctx, h.Name, metav1.DeleteOptions{}); controller.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

func mirrored(ep *corev1.Endpoints) bool {
	_, leader := ep.Annotations[leaderMark]
	return !leader && ep.Labels[discoveryv1.LabelSkipMirror] != "true" && ep.DeletionTimestamp == nil
}

// desired are the slices of ep: one per subset, address family and hundred addresses. Their names follow from what they hold, so that a repeated sync finds them.
func desired(ep *corev1.Endpoints) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, subset := range ep.Subsets {
		ports := make([]discoveryv1.EndpointPort, 0, len(subset.Ports))
		for _, p := range subset.Ports {
			ports = append(ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol})
		}
		byFamily := map[discoveryv1.AddressType][]discoveryv1.Endpoint{}
		room := perSubset
		add := func(addresses []corev1.EndpointAddress, ready bool) {
			addresses = addresses[:min(len(addresses), room)]
			room -= len(addresses)
			for _, a := range addresses {
				ip, err := netip.ParseAddr(a.IP)
				if err != nil {
					continue
				}
				family := discoveryv1.AddressTypeIPv4
				if ip.Is6() {
					family = discoveryv1.AddressTypeIPv6
				}
				e := discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)}, TargetRef: a.TargetRef, NodeName: a.NodeName}
				if a.Hostname != "" {
					e.Hostname = ptr.To(a.Hostname)
				}
				byFamily[family] = append(byFamily[family], e)
			}
		}
		add(subset.Addresses, true)
		add(subset.NotReadyAddresses, false)
		for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			for chunk := range slices.Chunk(byFamily[family], perSlice) {
				id := controller.Hash(fmt.Sprintf("%v %s %d", subset.Ports, family, len(out)), nil)
				out = append(out, &discoveryv1.EndpointSlice{
					ObjectMeta: metav1.ObjectMeta{
						Namespace: ep.Namespace, Name: ep.Name + "-" + id, Labels: sliceLabels(ep), Annotations: annotations(ep),
						OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ep, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
					},
					AddressType: family, Endpoints: chunk, Ports: ports,
				})
			}
		}
	}
	return out
}

func sliceLabels(ep *corev1.Endpoints) map[string]string {
	out := maps.Clone(ep.Labels)
	if out == nil {
		out = map[string]string{}
	}
	out[discoveryv1.LabelServiceName], out[discoveryv1.LabelManagedBy] = ep.Name, managedBy
	return out
}

func annotations(ep *corev1.Endpoints) map[string]string {
	out := maps.Clone(ep.Annotations)
	delete(out, triggerStamp)
	delete(out, corev1.LastAppliedConfigAnnotation)
	if len(out) == 0 {
		return nil
	}
	return out
}
