// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
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
		for i := range summary.Pods {
			pod := &summary.Pods[i]
			of := sink{ch, []string{"namespace", "pod"}, []string{pod.PodRef.Namespace, pod.PodRef.Name}}
			of.cpu("pod_cpu_usage_seconds_total", pod.CPU)
			of.memory("pod_memory_working_set_bytes", pod.Memory)
			for j := range pod.Containers {
				container := &pod.Containers[j]
				of := sink{ch, []string{"container", "namespace", "pod"}, []string{container.Name, pod.PodRef.Namespace, pod.PodRef.Name}}
				of.cpu("container_cpu_usage_seconds_total", container.CPU)
				of.memory("container_memory_working_set_bytes", container.Memory)
				of.gauge("container_start_time_seconds", float64(container.StartTime.UnixNano())/1e9, time.Time{})
			}
		}
	})
}

// ContainerHandler serves /metrics/cadvisor: the container series that dashboards know by cAdvisor's names.
func (c *Collector) ContainerHandler() http.Handler {
	return handler(func(ch chan<- prometheus.Metric) {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		defer cancel()
		summary, err := c.Summary(ctx, false)
		if err != nil {
			return
		}
		views := map[string]podworker.View{}
		for _, view := range c.Views() {
			views[string(view.Pod.UID)] = view
		}
		for i := range summary.Pods {
			pod := &summary.Pods[i]
			view := views[pod.PodRef.UID]
			names := []string{"container", "id", "image", "name", "namespace", "pod"}
			for j := range pod.Containers {
				container := &pod.Containers[j]
				seen := view.Observed.Newest(container.Name)
				if seen == nil {
					continue
				}
				of := sink{ch, names, []string{container.Name, seen.ID, seen.Image, seen.ID, pod.PodRef.Namespace, pod.PodRef.Name}}
				of.container(container)
				if r := seen.Resources; r != nil {
					of.gauge("container_spec_memory_limit_bytes", float64(r.MemoryLimitInBytes), time.Time{})
					of.gauge("container_spec_cpu_shares", float64(r.CpuShares), time.Time{})
					of.gauge("container_spec_cpu_period", float64(r.CpuPeriod), time.Time{})
					if r.CpuQuota > 0 {
						of.gauge("container_spec_cpu_quota", float64(r.CpuQuota), time.Time{})
					}
				}
			}
			pause := []string{"", "", "", "", pod.PodRef.Namespace, pod.PodRef.Name}
			of := sink{ch, names, pause}
			of.container(&statsapi.ContainerStats{CPU: pod.CPU, Memory: pod.Memory, StartTime: pod.StartTime})
			if pod.Network != nil {
				for _, i := range pod.Network.Interfaces {
					of := sink{ch, append([]string{"interface"}, names...), append([]string{i.Name}, pause...)}
					of.count("container_network_receive_bytes_total", i.RxBytes, 1)
					of.count("container_network_receive_errors_total", i.RxErrors, 1)
					of.count("container_network_transmit_bytes_total", i.TxBytes, 1)
					of.count("container_network_transmit_errors_total", i.TxErrors, 1)
				}
			}
		}
		node := sink{ch: ch}
		total, _ := NodeMemory()
		node.gauge("machine_memory_bytes", float64(total), time.Time{})
	})
}

// sink sends metrics with fixed labels.
type sink struct {
	ch            chan<- prometheus.Metric
	names, values []string
}

func (s sink) container(c *statsapi.ContainerStats) {
	if c.CPU != nil {
		of := sink{s.ch, append([]string{"cpu"}, s.names...), append([]string{"total"}, s.values...)}
		of.count("container_cpu_usage_seconds_total", c.CPU.UsageCoreNanoSeconds, 1e-9)
	}
	if m := c.Memory; m != nil {
		for name, value := range map[string]*uint64{
			"container_memory_usage_bytes": m.UsageBytes, "container_memory_working_set_bytes": m.WorkingSetBytes, "container_memory_rss": m.RSSBytes,
		} {
			if value != nil {
				s.gauge(name, float64(*value), time.Time{})
			}
		}
	}
	if c.Rootfs != nil && c.Rootfs.UsedBytes != nil {
		s.gauge("container_fs_usage_bytes", float64(*c.Rootfs.UsedBytes), time.Time{})
	}
	if !c.StartTime.IsZero() {
		s.gauge("container_start_time_seconds", float64(c.StartTime.Unix()), time.Time{})
	}
	s.gauge("container_last_seen", float64(time.Now().Unix()), time.Time{})
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

func (s sink) count(name string, value *uint64, scale float64) {
	if value != nil {
		s.send(name, prometheus.CounterValue, float64(*value)*scale, time.Time{})
	}
}

func (s sink) gauge(name string, value float64, at time.Time) {
	s.send(name, prometheus.GaugeValue, value, at)
}

func (s sink) send(name string, kind prometheus.ValueType, value float64, at time.Time) {
	metric, err := prometheus.NewConstMetric(prometheus.NewDesc(name, help[name], s.names, nil), kind, value, s.values...)
	if err != nil {
		return // a label that is not UTF-8
	}
	if !at.IsZero() {
		metric = prometheus.NewMetricWithTimestamp(at, metric)
	}
	s.ch <- metric
}

var help = map[string]string{
	"node_cpu_usage_seconds_total":            "Cumulative cpu time consumed by the node in core-seconds",
	"node_memory_working_set_bytes":           "Current working set of the node in bytes",
	"pod_cpu_usage_seconds_total":             "Cumulative cpu time consumed by the pod in core-seconds",
	"pod_memory_working_set_bytes":            "Current working set of the pod in bytes",
	"container_cpu_usage_seconds_total":       "Cumulative cpu time consumed by the container in core-seconds",
	"container_memory_working_set_bytes":      "Current working set of the container in bytes",
	"container_start_time_seconds":            "Start time of the container since unix epoch in seconds",
	"container_memory_usage_bytes":            "Current memory usage in bytes, including all memory regardless of when it was accessed",
	"container_memory_rss":                    "Size of RSS in bytes",
	"container_fs_usage_bytes":                "Number of bytes of the writable layer",
	"container_last_seen":                     "Last time a container was seen by the exporter",
	"container_network_receive_bytes_total":   "Cumulative count of bytes received",
	"container_network_receive_errors_total":  "Cumulative count of errors encountered while receiving",
	"container_network_transmit_bytes_total":  "Cumulative count of bytes transmitted",
	"container_network_transmit_errors_total": "Cumulative count of errors encountered while transmitting",
	"container_spec_memory_limit_bytes":       "Memory limit for the container; 0 is none",
	"container_spec_cpu_shares":               "CPU share of the container",
	"container_spec_cpu_period":               "CPU period of the container in microseconds",
	"container_spec_cpu_quota":                "CPU quota of the container in microseconds a period",
	"machine_memory_bytes":                    "Amount of memory installed on the machine",
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
