// SPDX-License-Identifier: Apache-2.0

// Package stats says what the node and its pods use: the summary of /stats/summary and the metrics of /metrics/resource and
// /metrics/cadvisor. Pods' numbers come from CRI, the node's from /proc and the filesystems.
package stats

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

// Collector reads statistics.
type Collector struct {
	Runtime  internalapi.RuntimeService
	Images   internalapi.ImageManagerService
	NodeName string
	DataDir  string // volumes; its filesystem is the node's
	LogsDir  string
	Views    func() []podworker.View

	mu   sync.Mutex
	last sample
}

type sample struct {
	at    time.Time
	usage uint64 // CPU time in ns
	cores uint64 // of the last interval, in billionths
}

var bootTime = sync.OnceValue(func() time.Time {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(info.Uptime) * time.Second)
})

// Summary is the node's and all pods' use now. With less, filesystems are left out.
func (c *Collector) Summary(ctx context.Context, less bool) (*statsapi.Summary, error) {
	pods, err := c.Runtime.ListPodSandboxStats(ctx, &runtimeapi.PodSandboxStatsFilter{})
	if err != nil {
		return nil, fmt.Errorf("statistics of pods: %w", err)
	}
	views := map[string]podworker.View{}
	for _, view := range c.Views() {
		views[string(view.Pod.UID)] = view
	}
	out := &statsapi.Summary{Node: c.node(ctx, less)}
	for _, pod := range pods {
		view, known := views[pod.GetAttributes().GetMetadata().GetUid()]
		if known {
			out.Pods = append(out.Pods, c.pod(pod, view, less))
		}
	}
	return out, nil
}

func (c *Collector) node(ctx context.Context, less bool) statsapi.NodeStats {
	now := metav1.Now()
	usage, cores := c.nodeCPU()
	total, available, rss := nodeMemory()
	used := total - available
	out := statsapi.NodeStats{
		NodeName: c.NodeName, StartTime: metav1.NewTime(bootTime()),
		CPU:    &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &usage, UsageNanoCores: &cores},
		Memory: &statsapi.MemoryStats{Time: now, AvailableBytes: &available, UsageBytes: &used, WorkingSetBytes: &used, RSSBytes: &rss},
	}
	if less {
		return out
	}
	out.Fs = Filesystem(c.DataDir)
	if fs, err := c.imageFS(ctx); err == nil {
		out.Runtime = &statsapi.RuntimeStats{ImageFs: fs, ContainerFs: fs}
	}
	maximum, running := processes()
	out.Rlimit = &statsapi.RlimitStats{Time: now, MaxPID: &maximum, NumOfRunningProcesses: &running}
	return out
}

func (c *Collector) imageFS(ctx context.Context) (*statsapi.FsStats, error) {
	response, err := c.Images.ImageFsInfo(ctx)
	if err != nil || len(response.ImageFilesystems) == 0 {
		return nil, fmt.Errorf("image filesystem: %w", err)
	}
	fs := response.ImageFilesystems[0]
	out := Filesystem(fs.GetFsId().GetMountpoint())
	if out != nil {
		used := fs.GetUsedBytes().GetValue()
		out.UsedBytes = &used
	}
	return out, nil
}

func (c *Collector) pod(pod *runtimeapi.PodSandboxStats, view podworker.View, less bool) statsapi.PodStats {
	meta, linux := pod.GetAttributes().GetMetadata(), pod.GetLinux()
	out := statsapi.PodStats{
		PodRef: statsapi.PodReference{Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid()},
		CPU:    cpu(linux.GetCpu()), Memory: memory(linux.GetMemory()), Containers: []statsapi.ContainerStats{},
	}
	if view.Status.StartTime != nil {
		out.StartTime = *view.Status.StartTime
	}
	var storage uint64
	for _, container := range linux.GetContainers() {
		name := container.GetAttributes().GetMetadata().GetName()
		one := statsapi.ContainerStats{Name: name, CPU: cpu(container.GetCpu()), Memory: memory(container.GetMemory())}
		if seen := view.Observed.Newest(name); seen != nil {
			one.StartTime = metav1.NewTime(seen.StartedAt)
			if !less {
				if size := dirSize(filepath.Dir(seen.LogPath)); seen.LogPath != "" {
					one.Logs = used(c.LogsDir, size)
					storage += size
				}
			}
		}
		if layer := container.GetWritableLayer(); layer != nil && !less {
			size := layer.GetUsedBytes().GetValue()
			one.Rootfs = used(layer.GetFsId().GetMountpoint(), size)
			storage += size
		}
		out.Containers = append(out.Containers, one)
	}
	if out.CPU == nil || out.Memory == nil {
		out.CPU, out.Memory = sum(out.Containers)
	}
	if network := linux.GetNetwork(); network != nil && !less {
		out.Network = &statsapi.NetworkStats{Time: metav1.NewTime(time.Unix(0, network.Timestamp)), InterfaceStats: iface(network.DefaultInterface)}
		out.Network.Interfaces = append(out.Network.Interfaces, iface(network.DefaultInterface))
		for _, other := range network.Interfaces {
			out.Network.Interfaces = append(out.Network.Interfaces, iface(other))
		}
	}
	if less {
		return out
	}
	for i := range view.Pod.Spec.Volumes {
		volume := &view.Pod.Spec.Volumes[i]
		if volume.EmptyDir == nil {
			continue
		}
		dir := filepath.Join(c.DataDir, "pods", string(view.Pod.UID), "volumes", "kubernetes.io~empty-dir", volume.Name)
		size := dirSize(dir)
		if stats := used(dir, size); stats != nil {
			out.VolumeStats = append(out.VolumeStats, statsapi.VolumeStats{Name: volume.Name, FsStats: *stats})
		}
		if volume.EmptyDir.Medium == "" {
			storage += size
		}
	}
	out.EphemeralStorage = used(c.DataDir, storage)
	if process := linux.GetProcess(); process != nil {
		count := process.GetProcessCount().GetValue()
		out.ProcessStats = &statsapi.ProcessStats{ProcessCount: &count}
	}
	return out
}

func cpu(u *runtimeapi.CpuUsage) *statsapi.CPUStats {
	if u == nil {
		return nil
	}
	out := &statsapi.CPUStats{Time: metav1.NewTime(time.Unix(0, u.Timestamp))}
	out.UsageCoreNanoSeconds, out.UsageNanoCores = value(u.UsageCoreNanoSeconds), value(u.UsageNanoCores)
	return out
}

func memory(u *runtimeapi.MemoryUsage) *statsapi.MemoryStats {
	if u == nil {
		return nil
	}
	return &statsapi.MemoryStats{
		Time: metav1.NewTime(time.Unix(0, u.Timestamp)), AvailableBytes: value(u.AvailableBytes), UsageBytes: value(u.UsageBytes),
		WorkingSetBytes: value(u.WorkingSetBytes), RSSBytes: value(u.RssBytes), PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorPageFaults),
	}
}

func iface(u *runtimeapi.NetworkInterfaceUsage) statsapi.InterfaceStats {
	return statsapi.InterfaceStats{Name: u.GetName(), RxBytes: value(u.GetRxBytes()), RxErrors: value(u.GetRxErrors()), TxBytes: value(u.GetTxBytes()), TxErrors: value(u.GetTxErrors())}
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

// sum adds containers up, for a runtime that does not measure pods as a whole.
func sum(containers []statsapi.ContainerStats) (*statsapi.CPUStats, *statsapi.MemoryStats) {
	var usage, cores, working uint64
	for i := range containers {
		if c := containers[i].CPU; c != nil {
			usage, cores = usage+deref(c.UsageCoreNanoSeconds), cores+deref(c.UsageNanoCores)
		}
		if m := containers[i].Memory; m != nil {
			working += deref(m.WorkingSetBytes)
		}
	}
	now := metav1.Now()
	return &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &usage, UsageNanoCores: &cores}, &statsapi.MemoryStats{Time: now, WorkingSetBytes: &working}
}

func deref(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}

// nodeCPU is the CPU time used since the machine's start, and the rate since the last call at least a second ago.
func (c *Collector) nodeCPU() (usage, cores uint64) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	const tick = uint64(time.Second) / 100 // USER_HZ
	for i, field := range fields {
		if i == 0 || i == 4 || i == 5 || i > 8 { // idle and iowait are not use; guest time is in user time already
			continue
		}
		n, err := strconv.ParseUint(field, 10, 64)
		if err == nil {
			usage += n * tick
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if passed := now.Sub(c.last.at); passed >= time.Second {
		if !c.last.at.IsZero() && usage >= c.last.usage {
			c.last.cores = uint64(float64(usage-c.last.usage) / passed.Seconds())
		}
		c.last.at, c.last.usage = now, usage
	}
	return usage, c.last.cores
}

// nodeMemory is total, available, and anonymous memory in bytes.
func nodeMemory() (total, available, rss uint64) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, 0
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = n * 1024
		case "MemAvailable:":
			available = n * 1024
		case "AnonPages:":
			rss = n * 1024
		}
	}
	return total, available, rss
}

// NodeMemory is the machine's total and available memory in bytes.
func NodeMemory() (total, available uint64) {
	total, available, _ = nodeMemory()
	return total, available
}

// processes is the most the machine allows and how many there are.
func processes() (maximum, running int64) {
	if data, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		maximum, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(data)); len(fields) > 3 {
			_, all, _ := strings.Cut(fields[3], "/")
			running, _ = strconv.ParseInt(all, 10, 64)
		}
	}
	return maximum, running
}

// Processes is the most the machine allows and how many there are.
func Processes() (maximum, running int64) { return processes() }

// Filesystem is how full the filesystem of a path is; nil when it cannot be told.
func Filesystem(path string) *statsapi.FsStats {
	var stat unix.Statfs_t
	if path == "" || unix.Statfs(path, &stat) != nil {
		return nil
	}
	size := uint64(stat.Bsize)
	available, capacity, usedBytes := stat.Bavail*size, stat.Blocks*size, (stat.Blocks-stat.Bfree)*size
	inodes, free := stat.Files, stat.Ffree
	usedInodes := inodes - free
	return &statsapi.FsStats{Time: metav1.Now(), AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &usedBytes, Inodes: &inodes, InodesFree: &free, InodesUsed: &usedInodes}
}

// used is a path's filesystem with what one user of it has.
func used(path string, size uint64) *statsapi.FsStats {
	out := Filesystem(path)
	if out != nil {
		out.UsedBytes, out.InodesUsed = &size, nil
	}
	return out
}

// dirSize is the space files below dir take, in bytes; other filesystems mounted there are not entered.
func dirSize(dir string) uint64 {
	if dir == "" || dir == "." {
		return 0
	}
	var root unix.Stat_t
	if unix.Lstat(dir, &root) != nil {
		return 0
	}
	var total uint64
	_ = filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		var stat unix.Stat_t
		if unix.Lstat(name, &stat) != nil {
			return nil
		}
		if stat.Dev != root.Dev {
			return filepath.SkipDir
		}
		total += uint64(stat.Blocks) * 512
		return nil
	})
	return total
}

// DirSize is the space files below dir take, in bytes.
func DirSize(dir string) uint64 { return dirSize(dir) }
