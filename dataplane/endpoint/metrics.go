// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead/fairlead/cni/wire"
	"github.com/fairlead/fairlead/dataplane/ipam"
)

var (
	requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "fairlead_cni_request_seconds", Help: "Time the agent took for a CNI request.", Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .5, 1, 5, 30},
	}, []string{"command", "outcome"})
	exhausted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fairlead_ipam_exhausted_total", Help: "Pods refused because the node had no free address.",
	})
	leaks = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fairlead_endpoint_leaks_total", Help: "Things found without an owner and removed, by kind.",
	}, []string{"kind"})
	failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fairlead_endpoint_reconcile_failures_total", Help: "Failed attempts to bring a pod's state into the kernel.",
	})
	addresses = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fairlead_ipam_addresses", Help: "Addresses of the node's pod CIDRs by state.",
	}, []string{"cidr", "state"})
)

// Metrics are this package's collectors, for the agent's registry.
func Metrics() []prometheus.Collector {
	return []prometheus.Collector{requests, exhausted, leaks, failures, addresses}
}

func observe(cmd wire.Command, err error, took time.Duration) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	requests.WithLabelValues(string(cmd), outcome).Observe(took.Seconds())
}

func updateUsage(usage []ipam.Usage) {
	addresses.Reset()
	for _, u := range usage {
		cidr := u.Prefix.String()
		addresses.WithLabelValues(cidr, "total").Set(float64(u.Size))
		addresses.WithLabelValues(cidr, "taken").Set(float64(u.Taken))
		addresses.WithLabelValues(cidr, "resting").Set(float64(u.Resting))
	}
}
