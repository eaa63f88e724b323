// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// metrics are what the load balancer tells Prometheus. Kernel counters are read when scraped.
type metrics struct {
	reg      prometheus.Registerer
	all      []prometheus.Collector
	syncTime prometheus.Histogram
	changes  prometheus.Counter
	gauges   struct{ services, backends, slotElems atomic.Uint64 }
	rec      *reconciler
}

func newMetrics(reg prometheus.Registerer, maps map[string]*ebpf.Map, rec *reconciler) *metrics {
	m := &metrics{reg: reg, rec: rec}
	m.syncTime = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "fairlead_lb_sync_seconds", Help: "Time from seeing a change in the tables to having written the maps.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16),
	})
	m.changes = prometheus.NewCounter(prometheus.CounterOpts{Name: "fairlead_lb_services_synced_total", Help: "Services programmed, by change."})
	gauge := func(name, help string, v *atomic.Uint64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(v.Load()) })
	}
	m.all = []prometheus.Collector{
		m.syncTime, m.changes,
		gauge("fairlead_lb_services", "Services programmed.", &m.gauges.services),
		gauge("fairlead_lb_backends", "Backend rows in use.", &m.gauges.backends),
		gauge("fairlead_lb_slot_elements", "Elements of the slots map in use, 16 slots each.", &m.gauges.slotElems),
		newKernelCounters(maps),
	}
	if reg == nil {
		return m
	}
	for i, c := range m.all {
		if reg.Register(c) != nil {
			m.all[i] = nil // someone else has it; theirs shows
		}
	}
	return m
}

func (m *metrics) synced(services int, took time.Duration) {
	m.syncTime.Observe(took.Seconds())
	m.changes.Add(float64(services))
	m.gauges.services.Store(uint64(len(m.rec.services)))
	m.gauges.backends.Store(uint64(m.rec.rows.used))
	m.gauges.slotElems.Store(uint64(m.rec.runs.used))
}

func (m *metrics) close() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		if c != nil {
			m.reg.Unregister(c)
		}
	}
}

// kernelCounters shows the per-CPU counters of the programs: drops by reason and load balancer events.
type kernelCounters struct {
	drops, events         *ebpf.Map
	reasons, names        map[uint64]string
	dropDesc, dropBytes   *prometheus.Desc
	eventDesc, mapMaxDesc *prometheus.Desc
	maps                  map[string]*ebpf.Map
}

func newKernelCounters(maps map[string]*ebpf.Map) *kernelCounters {
	reasons, err := loader.DropReasons()
	names, err2 := loader.EnumNames("lb_counter_index", "lb_")
	if err != nil || err2 != nil {
		panic("the embedded eBPF object has lost its enums") // it is compiled in: cannot happen at run time
	}
	return &kernelCounters{
		drops: maps[loader.BPFMapDrops], events: maps[loader.BPFMapLbCounters], reasons: reasons, names: names, maps: maps,
		dropDesc:   prometheus.NewDesc("fairlead_drop_packets_total", "Packets dropped, by reason.", []string{"reason"}, nil),
		dropBytes:  prometheus.NewDesc("fairlead_drop_bytes_total", "Bytes dropped, by reason.", []string{"reason"}, nil),
		eventDesc:  prometheus.NewDesc("fairlead_lb_events_total", "What the load balancer programs did, by kind.", []string{"event"}, nil),
		mapMaxDesc: prometheus.NewDesc("fairlead_map_max_entries", "Capacity of a map.", []string{"map"}, nil),
	}
}

func (k *kernelCounters) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{k.dropDesc, k.dropBytes, k.eventDesc, k.mapMaxDesc} {
		ch <- d
	}
}

func (k *kernelCounters) Collect(ch chan<- prometheus.Metric) {
	for i, name := range k.reasons {
		var per []loader.BPFDropCounter
		if i == 0 || name == "reason_count" || k.drops.Lookup(uint32(i), &per) != nil {
			continue
		}
		var packets, bytes uint64
		for _, c := range per {
			packets += c.Packets
			bytes += c.Bytes
		}
		ch <- prometheus.MustNewConstMetric(k.dropDesc, prometheus.CounterValue, float64(packets), name)
		ch <- prometheus.MustNewConstMetric(k.dropBytes, prometheus.CounterValue, float64(bytes), name)
	}
	for i, name := range k.names {
		var per []uint64
		if name == "counter_count" || k.events.Lookup(uint32(i), &per) != nil {
			continue
		}
		var sum uint64
		for _, c := range per {
			sum += c
		}
		ch <- prometheus.MustNewConstMetric(k.eventDesc, prometheus.CounterValue, float64(sum), name)
	}
	for name, m := range k.maps {
		ch <- prometheus.MustNewConstMetric(k.mapMaxDesc, prometheus.GaugeValue, float64(m.MaxEntries()), name)
	}
}
