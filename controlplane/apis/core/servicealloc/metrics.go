// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"net/netip"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// The metrics have the names that kube-apiserver gives them. Scope is dynamic for what the allocator chose, static for what the client did.
var (
	ipTaken = metrics.NewGaugeVec(&metrics.GaugeOpts{Namespace: "kube_apiserver", Subsystem: "clusterip_allocator", Name: "allocated_ips",
		Help: "Cluster addresses that Services have, as of the last repair.", StabilityLevel: metrics.ALPHA}, []string{"cidr"})
	ipFree = metrics.NewGaugeVec(&metrics.GaugeOpts{Namespace: "kube_apiserver", Subsystem: "clusterip_allocator", Name: "available_ips",
		Help: "Cluster addresses that are left, as of the last repair.", StabilityLevel: metrics.ALPHA}, []string{"cidr"})
	ipAllocations = metrics.NewCounterVec(&metrics.CounterOpts{Namespace: "kube_apiserver", Subsystem: "clusterip_allocator", Name: "allocation_total",
		Help: "Cluster addresses handed out.", StabilityLevel: metrics.ALPHA}, []string{"cidr", "scope"})
	ipErrors = metrics.NewCounterVec(&metrics.CounterOpts{Namespace: "kube_apiserver", Subsystem: "clusterip_allocator", Name: "allocation_errors_total",
		Help: "Requests for cluster addresses that failed.", StabilityLevel: metrics.ALPHA}, []string{"cidr", "scope"})
	portTaken = metrics.NewGauge(&metrics.GaugeOpts{Namespace: "kube_apiserver", Subsystem: "nodeport_allocator", Name: "allocated_ports",
		Help: "Node ports that Services have.", StabilityLevel: metrics.ALPHA})
	portFree = metrics.NewGauge(&metrics.GaugeOpts{Namespace: "kube_apiserver", Subsystem: "nodeport_allocator", Name: "available_ports",
		Help: "Node ports that are left.", StabilityLevel: metrics.ALPHA})
	portAllocations = metrics.NewCounterVec(&metrics.CounterOpts{Namespace: "kube_apiserver", Subsystem: "nodeport_allocator", Name: "allocation_total",
		Help: "Node ports handed out.", StabilityLevel: metrics.ALPHA}, []string{"scope"})
	portErrors = metrics.NewCounterVec(&metrics.CounterOpts{Namespace: "kube_apiserver", Subsystem: "nodeport_allocator", Name: "allocation_errors_total",
		Help: "Requests for node ports that failed.", StabilityLevel: metrics.ALPHA}, []string{"scope"})
)

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(ipTaken, ipFree, ipAllocations, ipErrors, portTaken, portFree, portAllocations, portErrors)
})

const dynamic, static = "dynamic", "static"

// countAddress counts one attempt on the address; the range is that which it is in, or the family's first.
func (c *claim) countAddress(ip netip.Addr, scope string, err error) {
	if c.dryRun {
		return
	}
	cidr := ""
	for _, p := range c.a.prefixes {
		if cidr == "" && familyOf(p.Addr()) == familyOf(ip) || p.Contains(ip) {
			cidr = p.String()
		}
	}
	if err != nil {
		ipErrors.WithLabelValues(cidr, scope).Inc()
		return
	}
	ipAllocations.WithLabelValues(cidr, scope).Inc()
}

func (c *claim) countPort(scope string, err error) {
	switch {
	case c.dryRun:
	case err != nil:
		portErrors.WithLabelValues(scope).Inc()
	default:
		portAllocations.WithLabelValues(scope).Inc()
	}
}

// gauge sets how much is taken and left, after a repair.
func (a *Allocator) gauge(ctx context.Context, addresses []networkingv1.IPAddress) {
	for _, p := range a.prefixes {
		taken := 0
		for i := range addresses {
			if ip, err := netip.ParseAddr(addresses[i].Name); err == nil && p.Contains(ip) {
				taken++
			}
		}
		ipTaken.WithLabelValues(p.String()).Set(float64(taken))
		ipFree.WithLabelValues(p.String()).Set(float64(usableSize(p)) - float64(taken))
	}
	if n, err := a.Taken(ctx); err == nil {
		portTaken.Set(float64(n))
		portFree.Set(float64(a.ports.size() - n))
	}
}
