// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/coredns/coredns/plugin/pkg/rcode"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// fastMetrics counts answers of the fast path as CoreDNS's plugin prometheus counts its own: in the same series, so that nobody need know which path a question took.
type fastMetrics struct {
	server, writer string
	zones          func() []string

	mu     sync.RWMutex
	series map[seriesKey]*series
}

type seriesKey struct {
	zone  string
	six   bool
	qtype uint16
	rcode int
}

type series struct {
	requests, do, responses           prometheus.Counter
	duration, requestSize, answerSize prometheus.Observer
}

// newFastMetrics returns nil when the Corefile does not ask for metrics.
func newFastMetrics(server string, cfg *dnsserver.Config) *fastMetrics {
	m, ok := cfg.Handler("prometheus").(*metrics.Metrics)
	if !ok {
		return nil
	}
	f := &fastMetrics{server: server, zones: m.ZoneNames, series: map[seriesKey]*series{}}
	handlers := cfg.Handlers()
	at := slices.IndexFunc(handlers, func(h plugin.Handler) bool { return h.Name() == "prometheus" })
	if at+1 < len(handlers) {
		f.writer = handlers[at+1].Name() // whom CoreDNS takes for the writer: the first behind the one that counts
	}
	return f
}

func (f *fastMetrics) report(q question, from netip.AddrPort, code, asked, answered int, start time.Time) {
	zone := plugin.Zones(f.zones()).Matches(q.name)
	if zone == "" {
		zone = "."
	}
	s := f.of(seriesKey{zone, q.six, q.qtype, code})
	if q.do != 0 {
		s.do.Inc()
	}
	s.requests.Inc()
	s.duration.Observe(time.Since(start).Seconds())
	s.answerSize.Observe(float64(answered))
	s.requestSize.Observe(float64(asked))
	s.responses.Inc()
}

func (f *fastMetrics) of(k seriesKey) *series {
	f.mu.RLock()
	s := f.series[k]
	f.mu.RUnlock()
	if s != nil {
		return s
	}
	family := "1"
	if k.six {
		family = "2"
	}
	s = &series{
		requests:    vars.RequestCount.WithLabelValues(f.server, k.zone, "", "udp", family, dns.Type(k.qtype).String()),
		do:          vars.RequestDo.WithLabelValues(f.server, k.zone, ""),
		responses:   vars.ResponseRcode.WithLabelValues(f.server, k.zone, "", rcode.ToString(k.rcode), f.writer),
		duration:    vars.RequestDuration.WithLabelValues(f.server, k.zone, ""),
		requestSize: vars.RequestSize.WithLabelValues(f.server, k.zone, "", "udp"),
		answerSize:  vars.ResponseSize.WithLabelValues(f.server, k.zone, "", "udp"),
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.series[k] = s
	return s
}
