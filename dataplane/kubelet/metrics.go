// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // counts requests to the API server: rest_client_*
	_ "k8s.io/component-base/metrics/prometheus/version"    // kubernetes_build_info
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
	"github.com/fairlead/fairlead/dataplane/kubelet/probes"
	"github.com/fairlead/fairlead/dataplane/kubelet/volumes"
)

// metrics are what one kubelet counts, by the names that the Kubernetes dashboards know, and where the time of a pod's start goes.
type metrics struct {
	registry *prometheus.Registry
	probing  *prometheus.Registry // of /metrics/probes

	stages     *prometheus.HistogramVec
	evictions  *prometheus.CounterVec
	runtime    *prometheus.CounterVec
	errors     *prometheus.CounterVec
	durations  *prometheus.HistogramVec
	relist     prometheus.Histogram
	interval   prometheus.Histogram
	started    prometheus.Histogram
	worker     *prometheus.HistogramVec
	cgroups    *prometheus.HistogramVec
	storage    *prometheus.HistogramVec
	probes     *prometheus.CounterVec
	startedAny prometheus.Counter
}

var latency = []float64{.005, .01, .025, .05, .1, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), probing: prometheus.NewRegistry()}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		out := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: latency}, labels)
		m.registry.MustRegister(out)
		return out
	}
	counter := func(registry *prometheus.Registry, name, help string, labels ...string) *prometheus.CounterVec {
		out := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		registry.MustRegister(out)
		return out
	}
	m.stages = histogram("fairlead_kubelet_pod_start_stage_seconds", "Time of the stages of pods' starts: image (looked up or pulled), sandbox (with its "+
		"network), container (made and started), running (all, from when the kubelet first saw the pod until its status says Running).", "stage")
	m.evictions = counter(m.registry, "kubelet_evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal")
	m.runtime = counter(m.registry, "kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type")
	m.errors = counter(m.registry, "kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type")
	m.durations = histogram("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", "operation_type")
	m.relist = histogram("kubelet_pleg_relist_duration_seconds", "Duration in seconds for relisting pods in PLEG.").With(nil).(prometheus.Histogram)
	m.interval = histogram("kubelet_pleg_relist_interval_seconds", "Interval in seconds between relisting in PLEG.").With(nil).(prometheus.Histogram)
	m.started = histogram("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run").
		With(nil).(prometheus.Histogram)
	m.worker = histogram("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single pod.", "operation_type")
	m.cgroups = histogram("kubelet_cgroup_manager_duration_seconds", "Duration in seconds for cgroup manager operations. Broken down by method.", "operation_type")
	m.storage = histogram("storage_operation_duration_seconds", "Storage operation duration", "migrated", "operation_name", "status", "volume_plugin")
	m.startedAny = prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_started_pods_total", Help: "Cumulative number of pods started"})
	m.registry.MustRegister(m.startedAny)
	m.probes = counter(m.probing, "prober_probe_total", "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		"container", "namespace", "pod", "pod_uid", "probe_type", "result")
	return m
}

// stage notes how long a stage of a pod's start took.
func (m *metrics) stage(stage string, took time.Duration) {
	m.stages.WithLabelValues(stage).Observe(took.Seconds())
	switch stage {
	case "sandbox":
		m.startedAny.Inc()
	case "running":
		m.started.Observe(took.Seconds())
	}
}

// operation notes one call to the runtime.
func (m *metrics) operation(name string, took time.Duration, err error) {
	m.runtime.WithLabelValues(name).Inc()
	m.durations.WithLabelValues(name).Observe(took.Seconds())
	failed := m.errors.WithLabelValues(name) // there from the first call on: a rate needs a zero to start from
	if err != nil && !observed.IsNotFound(err) {
		failed.Inc()
	}
}

// volume notes one step of a volume's life.
func (m *metrics) volume(plugin, operation string, took time.Duration, err error) {
	status := "success"
	if err != nil {
		status = "fail-unknown"
	}
	m.storage.WithLabelValues("false", operation, status, plugin).Observe(took.Seconds())
}

// probed notes what a probe found.
func (m *metrics) probed(pod *v1.Pod, container string, kind probes.Kind, result string) {
	m.probes.WithLabelValues(container, pod.Namespace, pod.Name, string(pod.UID), kind.String(), result).Inc()
}

// forget drops the probes of a pod that is gone.
func (m *metrics) forget(pod *v1.Pod) {
	m.probes.DeletePartialMatch(prometheus.Labels{"pod_uid": string(pod.UID)})
}

// handler serves /metrics: this kubelet's, the process's, and client-go's.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, others{}}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// others are the default registry's families, and those of Kubernetes' own registry that are about the client. In a server's process both
// registries hold what this node has no part in, and the same process twice: the first one found is kept.
type others struct{}

func (others) Gather() ([]*dto.MetricFamily, error) {
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		return families, err
	}
	known := map[string]bool{}
	for _, f := range families {
		known[f.GetName()] = true
	}
	more, err := legacyregistry.DefaultGatherer.Gather()
	for _, f := range more {
		if name := f.GetName(); !known[name] && (strings.HasPrefix(name, "rest_client_") || name == "kubernetes_build_info") {
			families = append(families, f)
		}
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return families, err
}

// state is a collector of what is so now: pods, containers, volumes, certificates.
type state struct{ *kubelet }

func (s state) Describe(chan<- *prometheus.Desc) {}

func (s state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(name, help string, value float64, pairs ...string) {
		var names, values []string
		for i := 0; i < len(pairs); i += 2 {
			names, values = append(names, pairs[i]), append(values, pairs[i+1])
		}
		metric, err := prometheus.NewConstMetric(prometheus.NewDesc(name, help, names, nil), prometheus.GaugeValue, value, values...)
		if err == nil { // else a name that is not UTF-8
			ch <- metric
		}
	}
	views := s.workers.Views()
	running, containers := 0, map[string]int{}
	plugins := map[string]int{}
	for _, view := range views {
		if view.Observed.Ready() != nil {
			running++
		}
		for i := range view.Observed.Containers {
			containers[view.Observed.Containers[i].State.String()]++
		}
		if !view.Ended {
			for i := range view.Pod.Spec.Volumes {
				plugins[volumes.Plugin(&view.Pod.Spec.Volumes[i])]++
			}
		}
	}
	gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox", float64(running))
	gauge("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run", float64(len(views)), "static", "")
	for name, count := range containers {
		gauge("kubelet_running_containers", "Number of containers currently running", float64(count), "container_state", name)
	}
	for plugin, count := range plugins {
		for _, of := range []string{"desired_state_of_world", "actual_state_of_world"} {
			gauge("volume_manager_total_volumes", "Number of volumes in Volume Manager", float64(count), "plugin_name", plugin, "state", of)
		}
	}
	gauge("kubelet_node_name", "The node's name. The count is always 1.", 1, "node", s.cfg.NodeName)
	if last := s.pleg.LastSeen(); !last.IsZero() {
		gauge("kubelet_pleg_last_seen_seconds", "Timestamp in seconds when PLEG was last seen active.", float64(last.UnixNano())/1e9)
	}
	for name, at := range map[string]int64{"start": first(s.shutdown.Times()), "end": second(s.shutdown.Times())} {
		gauge("kubelet_graceful_shutdown_"+name+"_time_seconds", "Last graceful shutdown "+name+" time since unix epoch in seconds", float64(at)/1e9)
	}
	if s.certificate != nil {
		if served, err := s.certificate(); err == nil && len(served.Certificate) > 0 {
			if leaf, err := x509.ParseCertificate(served.Certificate[0]); err == nil {
				gauge("kubelet_certificate_manager_server_ttl_seconds", "Shortest remaining time of the serving certificate in seconds", time.Until(leaf.NotAfter).Seconds())
			}
		}
	}
	s.volumeSeries(views, gauge)
}

func first(a, _ int64) int64  { return a }
func second(_, b int64) int64 { return b }

// volumeSeries sends how full volumes bound to claims are.
func (s state) volumeSeries(views []podworker.View, gauge func(string, string, float64, ...string)) {
	seen := map[statsapi.PVCReference]bool{}
	for _, view := range views {
		if view.Ended {
			continue
		}
		for i := range view.Pod.Spec.Volumes {
			fs, claim := s.volumeStats(s.life, view.Pod, &view.Pod.Spec.Volumes[i])
			if fs == nil || claim == nil || seen[*claim] {
				continue
			}
			seen[*claim] = true
			for name, value := range map[string]*uint64{
				"available_bytes": fs.AvailableBytes, "capacity_bytes": fs.CapacityBytes, "used_bytes": fs.UsedBytes,
				"inodes": fs.Inodes, "inodes_free": fs.InodesFree, "inodes_used": fs.InodesUsed,
			} {
				if value != nil {
					gauge("kubelet_volume_stats_"+name, "Number of "+strings.ReplaceAll(name, "_", " ")+" in the volume", float64(*value),
						"namespace", claim.Namespace, "persistentvolumeclaim", claim.Name)
				}
			}
		}
	}
}

// countedCgroups notes how long pods' cgroups take.
type countedCgroups struct {
	*cgroups.Manager
	metrics *metrics
}

func (c countedCgroups) Create(pod *v1.Pod) error { return c.timed("create", pod, c.Manager.Create) }
func (c countedCgroups) Remove(pod *v1.Pod) error { return c.timed("destroy", pod, c.Manager.Remove) }

func (c countedCgroups) timed(operation string, pod *v1.Pod, f func(*v1.Pod) error) error {
	started := time.Now()
	err := f(pod)
	c.metrics.cgroups.WithLabelValues(operation).Observe(time.Since(started).Seconds())
	return err
}
