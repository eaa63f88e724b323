// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func TestPoolHandsOutEveryUsableAddressOnce(t *testing.T) {
	for cidr, want := range map[string]int{"192.0.2.0/29": 6, "192.0.2.0/31": 2, "192.0.2.7/32": 1, "2001:db8::/125": 7} {
		p, err := NewPools([]string{cidr})
		if err != nil {
			t.Fatal(err)
		}
		is6 := strings.Contains(cidr, ":")
		seen := map[netip.Addr]bool{}
		for i := range want {
			a, err := p.Allocate(is6, fmt.Sprint("s", i))
			if err != nil {
				t.Fatalf("%s: address %d of %d: %v", cidr, i+1, want, err)
			}
			if seen[a] || !netip.MustParsePrefix(cidr).Contains(a) {
				t.Fatalf("%s: handed out %s twice or from outside", cidr, a)
			}
			seen[a] = true
		}
		if _, err := p.Allocate(is6, "late"); !errors.Is(err, ErrExhausted) {
			t.Errorf("%s: after %d addresses error is %v, want ErrExhausted", cidr, want, err)
		}
		p.Release("s0")
		if _, err := p.Allocate(is6, "late"); err != nil {
			t.Errorf("%s: a released address is not handed out again: %v", cidr, err)
		}
		if _, err := p.Allocate(!is6, "other family"); !errors.Is(err, ErrNoPool) {
			t.Errorf("%s: the other family gives %v, want ErrNoPool", cidr, err)
		}
	}
}

func TestPoolDoesNotReuseAFreedAddressAtOnce(t *testing.T) {
	p, _ := NewPools([]string{"192.0.2.0/24"})
	a, _ := p.Allocate(false, "a")
	p.Release("a")
	if b, _ := p.Allocate(false, "b"); a == b {
		t.Errorf("%s was handed out again at once", a)
	}
}

func TestNewPoolsRefuses(t *testing.T) {
	for _, cidrs := range [][]string{{"192.0.2.1/24"}, {"192.0.2.0"}, {"nonsense"}, {"192.0.2.0/24", "192.0.2.128/25"}} {
		if _, err := NewPools(cidrs); err == nil {
			t.Errorf("%v is accepted", cidrs)
		}
	}
}

func newService(name string, families ...corev1.IPFamily) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: families},
	}
}

func withStatus(svc *corev1.Service, ips ...string) *corev1.Service {
	for _, ip := range ips {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
	return svc
}

func newBalancer(t *testing.T, existing ...*corev1.Service) *Balancer {
	t.Helper()
	pools, err := NewPools([]string{"192.0.2.0/29", "2001:db8::/120"})
	if err != nil {
		t.Fatal(err)
	}
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, svc := range existing {
		indexer.Add(svc)
	}
	return &Balancer{pools: pools, services: corelisters.NewServiceLister(indexer)}
}

func TestEnsure(t *testing.T) {
	ctx := context.Background()
	holder := withStatus(newService("holder", corev1.IPv4Protocol), "192.0.2.3")
	young := withStatus(newService("young", corev1.IPv4Protocol), "192.0.2.3")
	young.CreationTimestamp = metav1.NewTime(time.Unix(100, 0))
	asks := func(ip string) *corev1.Service {
		svc := newService("asks", corev1.IPv4Protocol)
		svc.Annotations = map[string]string{AnnotationIPs: ip}
		return svc
	}
	for name, tc := range map[string]struct {
		svc     *corev1.Service
		want    []string // addresses; "*" is any of the family
		wantErr error
	}{
		"one address a family, in the order of the families":  {svc: newService("a", corev1.IPv6Protocol, corev1.IPv4Protocol), want: []string{"2001:db8::1", "*"}},
		"an address handed out before a restart is kept":      {svc: holder, want: []string{"192.0.2.3"}},
		"of two services with one address the older keeps it": {svc: young, want: []string{"*"}},
		"the address asked for is given":                      {svc: asks("192.0.2.5"), want: []string{"192.0.2.5"}},
		"an address of another service is refused":            {svc: asks("192.0.2.3"), wantErr: ErrInUse},
		"an address outside the pools is refused":             {svc: asks("198.51.100.1"), wantErr: ErrOutside},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, holder, young)
			status, err := b.EnsureLoadBalancer(ctx, "", tc.svc, nil)
			if !errors.Is(err, tc.wantErr) {
				t.Fatalf("error %v, want %v", err, tc.wantErr)
			}
			if err != nil {
				return
			}
			if len(status.Ingress) != len(tc.want) {
				t.Fatalf("%d addresses, want %d", len(status.Ingress), len(tc.want))
			}
			for i, want := range tc.want {
				got := status.Ingress[i].IP
				if want != "*" && got != want || tc.svc == young && got == "192.0.2.3" {
					t.Errorf("address %d is %s, want %s", i, got, want)
				}
			}
		})
	}
}

func TestBadRequestNamesTheField(t *testing.T) {
	svc := newService("a", corev1.IPv4Protocol)
	svc.Spec.LoadBalancerIP = "not an address"
	if _, err := newBalancer(t).EnsureLoadBalancer(context.Background(), "", svc, nil); err == nil || !strings.Contains(err.Error(), "spec.loadBalancerIP") {
		t.Errorf("error %v does not name the field", err)
	}
}

func TestDeletedServiceFreesItsAddress(t *testing.T) {
	ctx, b := context.Background(), newBalancer(t)
	svc := newService("a", corev1.IPv4Protocol)
	svc.Spec.LoadBalancerIP = "192.0.2.4"
	if _, err := b.EnsureLoadBalancer(ctx, "", svc, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureLoadBalancerDeleted(ctx, "", svc); err != nil {
		t.Fatal(err)
	}
	other := newService("b", corev1.IPv4Protocol)
	other.Spec.LoadBalancerIP = "192.0.2.4"
	if _, err := b.EnsureLoadBalancer(ctx, "", other, nil); err != nil {
		t.Errorf("the address of a deleted service is not free: %v", err)
	}
}
