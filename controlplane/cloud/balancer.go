// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/klog/v2"
)

// AnnotationIPs asks for certain addresses of the pools: one per family, separated by a comma. It takes precedence over spec.loadBalancerIP.
const AnnotationIPs = "fairlead.io/load-balancer-ips"

// Balancer implements cloudprovider.LoadBalancer on Pools.
type Balancer struct {
	pools    *Pools
	services corelisters.ServiceLister
	seed     sync.Once
}

var _ cloudprovider.LoadBalancer = (*Balancer)(nil)

// GetLoadBalancer returns the service's status; it exists while it has addresses.
func (b *Balancer) GetLoadBalancer(_ context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	return svc.Status.LoadBalancer.DeepCopy(), len(svc.Status.LoadBalancer.Ingress) > 0, nil
}

// GetLoadBalancerName returns namespace/name.
func (b *Balancer) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return owner(svc)
}

// EnsureLoadBalancer returns a status with one address for each family of the service: the one asked for, else the one it has, else a new one.
func (b *Balancer) EnsureLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, _ []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	b.seed.Do(func() { b.readBack(ctx) })
	wanted, err := requested(svc)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, family := range svc.Spec.IPFamilies {
		a, err := b.address(svc, family == corev1.IPv6Protocol, wanted)
		if err != nil {
			return nil, fmt.Errorf("%s address for service %s: %w", family, owner(svc), err)
		}
		addrs = append(addrs, a)
	}
	b.pools.Release(owner(svc), addrs...)
	status := &corev1.LoadBalancerStatus{}
	mode := corev1.LoadBalancerIPModeVIP
	for _, a := range addrs {
		status.Ingress = append(status.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
	}
	return status, nil
}

func (b *Balancer) address(svc *corev1.Service, is6 bool, wanted []netip.Addr) (netip.Addr, error) {
	for _, a := range wanted {
		if a.Is6() == is6 {
			return a, b.pools.Claim(a, owner(svc))
		}
	}
	for _, a := range current(svc) {
		if a.Is6() == is6 && b.pools.Claim(a, owner(svc)) == nil {
			return a, nil
		}
	}
	return b.pools.Allocate(is6, owner(svc))
}

// UpdateLoadBalancer has nothing to do: every node answers for every address.
func (b *Balancer) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return nil
}

// EnsureLoadBalancerDeleted frees the service's addresses.
func (b *Balancer) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	b.seed.Do(func() { b.readBack(ctx) })
	b.pools.Release(owner(svc))
	return nil
}

// readBack claims what earlier runs handed out, before anything new is. The oldest Service keeps an address that two have.
func (b *Balancer) readBack(ctx context.Context) {
	services, err := b.services.List(labels.Everything())
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot list services to read back their load-balancer addresses")
		return
	}
	sortByAge(services)
	for _, svc := range services {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.LoadBalancerClass != nil {
			continue
		}
		for _, a := range current(svc) {
			if err := b.pools.Claim(a, owner(svc)); err != nil {
				klog.FromContext(ctx).Info("Service will get another load-balancer address", "service", klog.KObj(svc), "reason", err.Error())
			}
		}
	}
}

func owner(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

// current returns the addresses in the service's status.
func current(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// requested returns the addresses that the service asks for.
func requested(svc *corev1.Service) ([]netip.Addr, error) {
	text, from := svc.Annotations[AnnotationIPs], "annotation "+AnnotationIPs
	if text == "" {
		text, from = svc.Spec.LoadBalancerIP, "spec.loadBalancerIP"
	}
	if text == "" {
		return nil, nil
	}
	var out []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("%s of service %s: %w", from, owner(svc), err)
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}
