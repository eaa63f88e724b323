// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const scrapeTimeout = 10 * time.Second

// ResourceHandler serves /metrics/resource: CPU and memory of node, pods and containers, as metrics-server reads them.
func (c *Collector) ResourceHandler() http.Handler {
	return handler(func(ch chan<- prometheus.Metric) {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		defer cancel()
		summary, err := c.Summary(ctx, true)
		failed := 0.0
		if err != nil {
			failed = 1
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil),
			prometheus.GaugeValue, failed)
		if err != nil {
			return
		}
		node := sink{ch: ch}
		node.cpu("node_cpu_usage_seconds_total", summary.Node.CPU)
		node.memory("node_memory_working_set_bytes", summary.Node.Memory)
		node.swap("node_swap_usage_bytes", summary.Node.Swap)
		for i := range summary.Pods {
			pod := &summary.Pods[i]
			of := sink{ch, []string{"namespace", "pod"}, []string{pod.PodRef.Namespace, pod.PodRef.Name}}
			of.cpu("pod_cpu_usage_seconds_total", pod.CPU)
			of.memory("pod_memory_working_set_bytes", pod.Memory)
			of.swap("pod_swap_usage_bytes", pod.Swap)
			for j := range pod.Containers {
				container := &pod.Containers[j]
				of := sink{ch, []string{"container", "namespace", "pod"}, []string{container.Name, pod.PodRef.Namespace, pod.PodRef.Name}}
				of.cpu("container_cpu_usage_seconds_total", container.CPU)
				of.memory("container_memory_working_set_bytes", container.Memory)
				of.swap("container_swap_usage_bytes", container.Swap)
				of.gauge("container_start_time_seconds", float64(container.StartTime.UnixNano())/1e9, time.Time{})
			}
		}
	})
}

// sink sends metrics with fixed labels.
type sink struct {
	ch            chan<- prometheus.Metric
	names, values []string
}

func (s sink) cpu(name string, c *statsapi.CPUStats) {
	if c != nil && c.UsageCoreNanoSeconds != nil {
		s.send(name, prometheus.CounterValue, float64(*c.UsageCoreNanoSeconds)/1e9, c.Time.Time)
	}
}

func (s sink) memory(name string, m *statsapi.MemoryStats) {
	if m != nil && m.WorkingSetBytes != nil {
		s.gauge(name, float64(*m.WorkingSetBytes), m.Time.Time)
	}
}

func (s sink) swap(name string, u *statsapi.SwapStats) {
	if u != nil && u.SwapUsageBytes != nil {
		s.gauge(name, float64(*u.SwapUsageBytes), u.Time.Time)
	}
}

func (s sink) gauge(name string, value float64, at time.Time) {
	s.send(name, prometheus.GaugeValue, value, at)
}

func (s sink) send(name string, kind prometheus.ValueType, value float64, at time.Time) {
	metric, err := prometheus.NewConstMetric(prometheus.NewDesc(name, helpOf(name), s.names, nil), kind, value, s.values...)
	if err != nil {
		return // a label that is not UTF-8
	}
	if !at.IsZero() {
		metric = prometheus.NewMetricWithTimestamp(at, metric)
	}
	s.ch <- metric
}

var help = map[string]string{
	"node_cpu_usage_seconds_total":       "Cumulative cpu time consumed by the node in core-seconds",
	"node_memory_working_set_bytes":      "Current working set of the node in bytes",
	"node_swap_usage_bytes":              "Current swap usage of the node in bytes",
	"pod_cpu_usage_seconds_total":        "Cumulative cpu time consumed by the pod in core-seconds",
	"pod_memory_working_set_bytes":       "Current working set of the pod in bytes",
	"pod_swap_usage_bytes":               "Current swap usage of the pod in bytes",
	"container_cpu_usage_seconds_total":  "Cumulative cpu time consumed by the container in core-seconds",
	"container_memory_working_set_bytes": "Current working set of the container in bytes",
	"container_swap_usage_bytes":         "Current swap usage of the container in bytes",
	"container_start_time_seconds":       "Start time of the container since unix epoch in seconds",
}

func helpOf(name string) string {
	if text, ok := help[name]; ok {
		return text
	}
	return containerHelp[name]
}

// collector is a prometheus collector made of a function; it describes nothing, so names may vary.
type collector func(chan<- prometheus.Metric)

func (c collector) Describe(chan<- *prometheus.Desc)    {}
func (c collector) Collect(ch chan<- prometheus.Metric) { c(ch) }

func handler(collect func(chan<- prometheus.Metric)) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector(collect))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}
