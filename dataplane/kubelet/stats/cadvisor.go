// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

// ContainerHandler serves /metrics/cadvisor: the series that dashboards and rules know by cAdvisor's names and labels. A container has its
// name and image; a pod as a whole has neither; network counters are its sandbox's; the cgroups above pods, up to id="/", have no pod.
func (c *Collector) ContainerHandler() http.Handler {
	return handler(func(ch chan<- prometheus.Metric) {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		defer cancel()
		out := sink{ch: ch, names: []string{"container", "id", "image", "name", "namespace", "pod"}}
		out.machine(c)
		layers := map[string]*runtimeapi.FilesystemUsage{}
		if list, err := c.Runtime.ListContainerStats(ctx, nil); err == nil { // without, only what layers take is missing
			for _, one := range list {
				layers[one.GetAttributes().GetId()] = one.GetWritableLayer()
			}
		}
		for _, id := range append([]string{"/"}, c.parents()...) {
			if u, ok := c.Cgroups.Usage(id); ok {
				out.with("", id, "", "", "", "").usage(u)
			}
		}
		for _, device := range devicesOf(os.Getpid()) {
			out.with("", "/", "", "", "", "").network(device)
		}
		for _, view := range c.Views() {
			if !view.Ended && view.Pod.Name != "" {
				c.podSeries(out, view, layers)
			}
		}
	})
}

// parents are the cgroups above pods.
func (c *Collector) parents() (out []string) {
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		out = append(out, cgroups.Parent(c.CgroupRoot, class))
	}
	return out
}

func (c *Collector) podSeries(out sink, view podworker.View, layers map[string]*runtimeapi.FilesystemUsage) {
	pod := view.Pod
	path := cgroups.Pod(c.CgroupRoot, cgroups.QOSClass(pod), pod.UID)
	if u, ok := c.Cgroups.Usage(path); ok {
		out.with("", path, "", "", pod.Namespace, pod.Name).usage(u)
	}
	if sandbox := view.Observed.Ready(); sandbox != nil {
		id := filepath.Join(path, sandbox.ID)
		own := out.with("", id, "", sandbox.ID, pod.Namespace, pod.Name)
		if u, ok := c.Cgroups.Usage(id); ok {
			own.usage(u)
		}
		if pid := c.Cgroups.FirstProcess(id); pid != 0 && !pod.Spec.HostNetwork {
			for _, device := range devicesOf(pid) {
				own.network(device)
			}
		}
	}
	seen := map[string]bool{}
	for i := range view.Observed.Containers {
		container := &view.Observed.Containers[i]
		if seen[container.Name] || container.State != observed.Running {
			continue
		}
		seen[container.Name] = true
		id := filepath.Join(path, container.ID)
		u, ok := c.Cgroups.Usage(id)
		if !ok {
			continue
		}
		own := out.with(container.Name, id, container.Image, container.ID, pod.Namespace, pod.Name)
		own.usage(u)
		own.gaugeNow("container_start_time_seconds", float64(container.StartedAt.Unix()))
		own.limits(container.Resources)
		if layer := layers[container.ID]; layer != nil {
			own.filesystem(layer)
		}
	}
}

// with returns a sink with these labels: container, id, image, name, namespace, pod.
func (s sink) with(values ...string) sink {
	s.values = values
	return s
}

// also returns a sink with one more label.
func (s sink) also(name, value string) sink {
	return sink{s.ch, append([]string{name}, s.names...), append([]string{value}, s.values...)}
}

func (s sink) gaugeNow(name string, value float64) { s.gauge(name, value, time.Time{}) }

func (s sink) counter(name string, value float64) {
	s.send(name, prometheus.CounterValue, value, time.Time{})
}

func (s sink) machine(c *Collector) {
	total, _ := NodeMemory()
	node := sink{ch: s.ch, names: []string{"boot_id", "machine_id", "system_uuid"}, values: []string{c.Machine.BootID, c.Machine.MachineID, c.Machine.SystemUUID}}
	node.gaugeNow("machine_memory_bytes", float64(total))
	node.gaugeNow("machine_cpu_cores", float64(c.Machine.CPUs))
	swap := nodeSwap(metav1.Now())
	if swap == nil {
		node.gaugeNow("machine_swap_bytes", 0)
	} else {
		node.gaugeNow("machine_swap_bytes", float64(*swap.SwapAvailableBytes+*swap.SwapUsageBytes))
	}
	sink{ch: s.ch, names: []string{"kernelVersion", "osVersion"}, values: []string{c.Machine.Kernel, c.Machine.OSImage}}.gaugeNow("cadvisor_version_info", 1)
	sink{ch: s.ch}.gaugeNow("container_scrape_error", 0)
}

// usage sends what a cgroup used.
func (s sink) usage(u cgroups.Usage) {
	s.also("cpu", "total").counter("container_cpu_usage_seconds_total", u.CPU.Seconds())
	s.counter("container_cpu_user_seconds_total", u.User.Seconds())
	s.counter("container_cpu_system_seconds_total", u.System.Seconds())
	if u.Periods > 0 {
		s.counter("container_cpu_cfs_periods_total", float64(u.Periods))
		s.counter("container_cpu_cfs_throttled_periods_total", float64(u.ThrottledPeriods))
		s.counter("container_cpu_cfs_throttled_seconds_total", u.Throttled.Seconds())
	}
	for name, value := range map[string]uint64{
		"container_memory_usage_bytes": u.Memory, "container_memory_max_usage_bytes": u.MemoryMax, "container_memory_working_set_bytes": u.WorkingSet,
		"container_memory_rss": u.RSS, "container_memory_cache": u.Cache, "container_memory_swap": u.Swap, "container_memory_mapped_file": u.Mapped,
		"container_processes": u.Processes, "container_threads": u.Threads,
	} {
		s.gaugeNow(name, float64(value))
	}
	s.counter("container_memory_failcnt", float64(u.LimitHits))
	s.counter("container_oom_events_total", float64(u.OOMKills))
	failures := func(kind string, value uint64) {
		s.also("failure_type", kind).also("scope", "hierarchy").counter("container_memory_failures_total", float64(value))
	}
	failures("pgfault", u.Faults)
	failures("pgmajfault", u.Major)
	for _, io := range u.IO {
		of := s.also("device", deviceName(io.Device))
		of.counter("container_fs_reads_total", float64(io.Reads))
		of.counter("container_fs_writes_total", float64(io.Writes))
		of.counter("container_fs_reads_bytes_total", float64(io.ReadBytes))
		of.counter("container_fs_writes_bytes_total", float64(io.WrittenBytes))
		major, minor, _ := strings.Cut(io.Device, ":")
		for operation, bytes := range map[string]uint64{"Read": io.ReadBytes, "Write": io.WrittenBytes} {
			of.also("major", major).also("minor", minor).also("operation", operation).counter("container_blkio_device_usage_total", float64(bytes))
		}
	}
	for name, p := range map[string]*cgroups.Pressure{"cpu": u.CPUPressure, "memory": u.MemoryPressure, "io": u.IOPressure} {
		if p != nil {
			s.counter("container_pressure_"+name+"_waiting_seconds_total", p.Some.Total.Seconds())
			s.counter("container_pressure_"+name+"_stalled_seconds_total", p.Full.Total.Seconds())
		}
	}
	s.gaugeNow("container_last_seen", float64(time.Now().Unix()))
}

func (s sink) network(d device) {
	of := s.also("interface", d.name)
	for name, value := range map[string]uint64{
		"receive_bytes": d.rxBytes, "receive_packets": d.rxPackets, "receive_errors": d.rxErrors, "receive_packets_dropped": d.rxDropped,
		"transmit_bytes": d.txBytes, "transmit_packets": d.txPackets, "transmit_errors": d.txErrors, "transmit_packets_dropped": d.txDropped,
	} {
		of.counter("container_network_"+name+"_total", float64(value))
	}
}

func (s sink) limits(r *runtimeapi.LinuxContainerResources) {
	if r == nil {
		return
	}
	s.gaugeNow("container_spec_memory_limit_bytes", float64(r.MemoryLimitInBytes))
	s.gaugeNow("container_spec_memory_reservation_limit_bytes", 0)
	s.gaugeNow("container_spec_memory_swap_limit_bytes", float64(max(r.MemorySwapLimitInBytes, 0)))
	s.gaugeNow("container_spec_cpu_shares", float64(r.CpuShares))
	s.gaugeNow("container_spec_cpu_period", float64(r.CpuPeriod))
	if r.CpuQuota > 0 {
		s.gaugeNow("container_spec_cpu_quota", float64(r.CpuQuota))
	}
}

func (s sink) filesystem(layer *runtimeapi.FilesystemUsage) {
	fs := Filesystem(layer.GetFsId().GetMountpoint())
	if fs == nil {
		return
	}
	of := s.also("device", layer.GetFsId().GetMountpoint())
	of.gaugeNow("container_fs_usage_bytes", float64(layer.GetUsedBytes().GetValue()))
	of.gaugeNow("container_fs_limit_bytes", float64(*fs.CapacityBytes))
	of.gaugeNow("container_fs_inodes_total", float64(*fs.Inodes))
	of.gaugeNow("container_fs_inodes_free", float64(*fs.InodesFree))
}

// deviceName is a block device's name by its number, as /dev has it; the number when it has none.
func deviceName(number string) string {
	data, err := os.ReadFile("/sys/dev/block/" + number + "/uevent")
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return number
}

var containerHelp = map[string]string{
	"cadvisor_version_info":                            "Kernel and operating system versions of the machine",
	"container_scrape_error":                           "1 if there was an error while getting container metrics, 0 otherwise",
	"container_cpu_user_seconds_total":                 "Cumulative user cpu time consumed in seconds",
	"container_cpu_system_seconds_total":               "Cumulative system cpu time consumed in seconds",
	"container_cpu_cfs_periods_total":                  "Number of elapsed enforcement period intervals",
	"container_cpu_cfs_throttled_periods_total":        "Number of throttled period intervals",
	"container_cpu_cfs_throttled_seconds_total":        "Total time duration the container has been throttled",
	"container_memory_usage_bytes":                     "Current memory usage in bytes, including all memory regardless of when it was accessed",
	"container_memory_max_usage_bytes":                 "Maximum memory usage recorded in bytes",
	"container_memory_rss":                             "Size of RSS in bytes",
	"container_memory_cache":                           "Number of bytes of page cache memory",
	"container_memory_swap":                            "Container swap usage in bytes",
	"container_memory_mapped_file":                     "Size of memory mapped files in bytes",
	"container_memory_failcnt":                         "Number of memory usage hits limits",
	"container_memory_failures_total":                  "Cumulative count of memory allocation failures",
	"container_oom_events_total":                       "Count of out of memory events observed for the container",
	"container_processes":                              "Number of processes running inside the container",
	"container_threads":                                "Number of threads running inside the container",
	"container_fs_reads_total":                         "Cumulative count of reads completed",
	"container_fs_writes_total":                        "Cumulative count of writes completed",
	"container_fs_reads_bytes_total":                   "Cumulative count of bytes read",
	"container_fs_writes_bytes_total":                  "Cumulative count of bytes written",
	"container_blkio_device_usage_total":               "Blkio device bytes usage",
	"container_fs_usage_bytes":                         "Number of bytes of the writable layer",
	"container_fs_limit_bytes":                         "Number of bytes of the filesystem the writable layer is on",
	"container_fs_inodes_total":                        "Number of inodes of the filesystem the writable layer is on",
	"container_fs_inodes_free":                         "Number of available inodes of the filesystem the writable layer is on",
	"container_pressure_cpu_waiting_seconds_total":     "Total time duration tasks in the container have waited due to CPU congestion",
	"container_pressure_cpu_stalled_seconds_total":     "Total time duration no tasks in the container could make progress due to CPU congestion",
	"container_pressure_memory_waiting_seconds_total":  "Total time duration tasks in the container have waited due to memory congestion",
	"container_pressure_memory_stalled_seconds_total":  "Total time duration no tasks in the container could make progress due to memory congestion",
	"container_pressure_io_waiting_seconds_total":      "Total time duration tasks in the container have waited due to IO congestion",
	"container_pressure_io_stalled_seconds_total":      "Total time duration no tasks in the container could make progress due to IO congestion",
	"container_last_seen":                              "Last time a container was seen by the exporter",
	"container_network_receive_bytes_total":            "Cumulative count of bytes received",
	"container_network_receive_packets_total":          "Cumulative count of packets received",
	"container_network_receive_errors_total":           "Cumulative count of errors encountered while receiving",
	"container_network_receive_packets_dropped_total":  "Cumulative count of packets dropped while receiving",
	"container_network_transmit_bytes_total":           "Cumulative count of bytes transmitted",
	"container_network_transmit_packets_total":         "Cumulative count of packets transmitted",
	"container_network_transmit_errors_total":          "Cumulative count of errors encountered while transmitting",
	"container_network_transmit_packets_dropped_total": "Cumulative count of packets dropped while transmitting",
	"container_spec_memory_limit_bytes":                "Memory limit for the container; 0 is none",
	"container_spec_memory_reservation_limit_bytes":    "Memory reservation limit for the container",
	"container_spec_memory_swap_limit_bytes":           "Memory swap limit for the container",
	"container_spec_cpu_shares":                        "CPU share of the container",
	"container_spec_cpu_period":                        "CPU period of the container in microseconds",
	"container_spec_cpu_quota":                         "CPU quota of the container in microseconds a period",
	"machine_memory_bytes":                             "Amount of memory installed on the machine",
	"machine_swap_bytes":                               "Amount of swap memory available on the machine",
	"machine_cpu_cores":                                "Number of logical CPU cores",
}
