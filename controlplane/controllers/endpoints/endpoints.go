// SPDX-License-Identifier: Apache-2.0

// Package endpoints keeps the Endpoints object of each Service with a selector, for clients that do not read EndpointSlices yet.
//
// It watches Services, Pods and Endpoints, and writes Endpoints. At most 1000 addresses of the Service's first family are listed; more are cut off and annotated.
package endpoints

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/endpointslice/util"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	// ManagedBy labels the Endpoints this controller writes, with the value of Kubernetes' own.
	ManagedBy    = "endpoints.kubernetes.io/managed-by"
	manager      = "endpoint-controller"
	maxAddresses = 1000
	batch        = 100 * time.Millisecond
)

type loop struct {
	c         *controller.Context
	queue     *controller.Queue
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	synced    []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("endpoint-controller", "endpoint-controller")
	services, pods, endpoints := c.Informers.Core().V1().Services(), c.Informers.Core().V1().Pods(), c.Informers.Core().V1().Endpoints()
	l := &loop{
		c: c, services: services.Lister(), pods: pods.Lister(), endpoints: endpoints.Lister(),
		synced: []cache.InformerSynced{services.Informer().HasSynced, pods.Informer().HasSynced, endpoints.Informer().HasSynced},
	}
	l.queue = c.Queue("endpoints", l.sync)
	controller.On(services.Informer(), l.queue.Enqueue)
	controller.Watch(pods.Informer(), func(old, obj any) {
		if old == obj {
			old = nil
		}
		if pod, ok := controller.Object[*corev1.Pod](obj); ok {
			if projection := util.GetPodUpdateProjectionKey(old, pod); projection != nil {
				keys, err := util.GetServicesToUpdate(l.services, projection)
				if err != nil {
					return
				}
				for key := range keys {
					l.queue.AddAfter(key, batch)
				}
			}
		}
	})
	controller.Watch(endpoints.Informer(), func(old, obj any) {
		if old == obj {
			l.queue.Enqueue(obj) // somebody deleted it
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	service, err := l.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		err := l.c.Client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{})
		return controller.IgnoreNotFound(err)
	} else if err != nil || service.Spec.Selector == nil || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return err
	}
	pods, err := l.pods.Pods(namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: maps.Clone(service.Labels), Annotations: map[string]string{}}}
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[ManagedBy] = manager
	delete(want.Labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		want.Labels[corev1.IsHeadlessService] = ""
	}
	var cut bool
	if want.Subsets, cut = subsets(service, pods); cut {
		want.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	had, err := l.endpoints.Endpoints(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = l.c.Client.CoreV1().Endpoints(namespace).Create(ctx, want, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	case err != nil:
		return err
	case equality.Semantic.DeepEqual(had.Subsets, want.Subsets) && maps.Equal(had.Labels, want.Labels) &&
		had.Annotations[corev1.EndpointsOverCapacity] == want.Annotations[corev1.EndpointsOverCapacity]:
		return nil
	}
	updated := had.DeepCopy()
	updated.Subsets, updated.Labels = want.Subsets, want.Labels
	if delete(updated.Annotations, corev1.EndpointsOverCapacity); cut {
		updated.Annotations = maps.Clone(want.Annotations)
	}
	if _, err = l.c.Client.CoreV1().Endpoints(namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
		l.c.Events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s: %v", key, err)
	}
	return err
}

// subsets groups the addresses of pods by the ports they serve on: pods that name their ports differently are in different subsets.
func subsets(service *corev1.Service, pods []*corev1.Pod) (out []corev1.EndpointSubset, cut bool) {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Or(readyFirst(a, b), cmp.Compare(a.Name, b.Name)) })
	n := 0
	for _, pod := range pods {
		if !util.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		ip, ok := address(service, pod)
		if !ok {
			continue
		}
		ports, ok := ports(service, pod)
		if !ok {
			continue
		}
		if n++; n > maxAddresses {
			return out, true
		}
		a := corev1.EndpointAddress{IP: ip, NodeName: &pod.Spec.NodeName, TargetRef: &corev1.ObjectReference{
			Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		}}
		if util.ShouldSetHostname(pod, service) {
			a.Hostname = pod.Spec.Hostname
		}
		i := slices.IndexFunc(out, func(s corev1.EndpointSubset) bool { return equality.Semantic.DeepEqual(s.Ports, ports) })
		if i < 0 {
			out, i = append(out, corev1.EndpointSubset{Ports: ports}), len(out)
		}
		if service.Spec.PublishNotReadyAddresses || controller.Ready(pod) {
			out[i].Addresses = append(out[i].Addresses, a)
		} else {
			out[i].NotReadyAddresses = append(out[i].NotReadyAddresses, a)
		}
	}
	for i := range out {
		for _, list := range [][]corev1.EndpointAddress{out[i].Addresses, out[i].NotReadyAddresses} {
			slices.SortFunc(list, func(a, b corev1.EndpointAddress) int { return cmp.Compare(a.IP, b.IP) })
		}
	}
	return out, false
}

func readyFirst(a, b *corev1.Pod) int {
	switch ra, rb := controller.Ready(a), controller.Ready(b); {
	case ra == rb:
		return 0
	case ra:
		return -1
	}
	return 1
}

// address is the pod's address of the Service's first family.
func address(service *corev1.Service, pod *corev1.Pod) (string, bool) {
	v6 := len(service.Spec.IPFamilies) > 0 && service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is6() == v6 {
			return ip.IP, true
		}
	}
	return "", false
}

// ports are the Service's target ports on this pod, false when it has none of them. A headless Service without ports has none and is fine.
func ports(service *corev1.Service, pod *corev1.Pod) ([]corev1.EndpointPort, bool) {
	var out []corev1.EndpointPort
	for _, p := range service.Spec.Ports {
		number, ok := target(&p, pod)
		if ok {
			out = append(out, corev1.EndpointPort{Name: p.Name, Port: number, Protocol: p.Protocol, AppProtocol: p.AppProtocol})
		}
	}
	slices.SortFunc(out, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port))
	})
	return out, len(out) > 0 || len(service.Spec.Ports) == 0
}

func target(p *corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if p.TargetPort.Type == intstr.Int {
		if p.TargetPort.IntVal == 0 {
			return p.Port, true
		}
		return p.TargetPort.IntVal, true
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range containers {
			for _, cp := range c.Ports {
				if cp.Name == p.TargetPort.StrVal && cp.Protocol == p.Protocol {
					return cp.ContainerPort, true
				}
			}
		}
	}
	return 0, false
}
