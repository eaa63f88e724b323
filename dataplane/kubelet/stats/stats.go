// SPDX-License-Identifier: Apache-2.0

// Package stats says what the node and its pods use: the summary of /stats/summary and the metrics of /metrics/resource and
// /metrics/cadvisor. Pods' numbers come from CRI, the node's from /proc and the filesystems.
package stats

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/node"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

// Collector reads statistics.
type Collector struct {
	Runtime  internalapi.RuntimeService
	Images   internalapi.ImageManagerService
	NodeName string
	Machine  node.Machine
	DataDir  string // volumes; its filesystem is the node's
	LogsDir  string
	Views    func() []podworker.View

	// Cgroups and CgroupRoot are where pods' own counters are read that CRI does not have: pressure, and what cAdvisor shows.
	Cgroups    cgroups.Layout
	CgroupRoot string
	// Volume measures a volume that is not the kubelet's own: one bound to a claim or a driver's. It returns nil for what cannot be measured.
	Volume func(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (*statsapi.FsStats, *statsapi.PVCReference)

	mu    sync.Mutex
	last  sample
	known map[string]dirUse
}

type sample struct {
	at    time.Time
	usage uint64 // CPU time in ns
	cores uint64 // of the last interval, in billionths
}

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
			out.Pods = append(out.Pods, c.pod(ctx, pod, view, less))
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
	cpuPressure, memoryPressure, ioPressure := cgroups.NodePressure()
	out.CPU.PSI, out.Memory.PSI = psi(cpuPressure), psi(memoryPressure)
	if ioPressure != nil {
		out.IO = &statsapi.IOStats{Time: now, PSI: psi(ioPressure)}
	}
	out.Swap = nodeSwap(now)
	if less {
		return out
	}
	out.SystemContainers = c.systemContainers(now)
	out.Network = nodeNetwork(now)
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

func (c *Collector) pod(ctx context.Context, pod *runtimeapi.PodSandboxStats, view podworker.View, less bool) statsapi.PodStats {
	meta, linux := pod.GetAttributes().GetMetadata(), pod.GetLinux()
	out := statsapi.PodStats{
		PodRef: statsapi.PodReference{Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid()},
		CPU:    cpu(linux.GetCpu()), Memory: memory(linux.GetMemory()), Containers: []statsapi.ContainerStats{},
	}
	path := cgroups.Pod(c.CgroupRoot, cgroups.QOSClass(view.Pod), view.Pod.UID)
	if view.Status.StartTime != nil {
		out.StartTime = *view.Status.StartTime
	}
	var storage dirUse
	for _, container := range linux.GetContainers() {
		name := container.GetAttributes().GetMetadata().GetName()
		one := statsapi.ContainerStats{Name: name, CPU: cpu(container.GetCpu()), Memory: memory(container.GetMemory())}
		c.pressure(filepath.Join(path, container.GetAttributes().GetId()), &one.CPU, &one.Memory, &one.IO, &one.Swap)
		if seen := view.Observed.Newest(name); seen != nil {
			one.StartTime = metav1.NewTime(seen.StartedAt)
			if !less && seen.LogPath != "" {
				size := c.dirUse(filepath.Dir(seen.LogPath))
				one.Logs = used(c.LogsDir, size)
				storage.add(size)
			}
		}
		if layer := container.GetWritableLayer(); layer != nil && !less {
			size := dirUse{bytes: layer.GetUsedBytes().GetValue(), inodes: layer.GetInodesUsed().GetValue()}
			one.Rootfs = used(layer.GetFsId().GetMountpoint(), size)
			storage.add(size)
		}
		out.Containers = append(out.Containers, one)
	}
	if out.CPU == nil || out.Memory == nil {
		out.CPU, out.Memory = sum(out.Containers)
	}
	c.pressure(path, &out.CPU, &out.Memory, &out.IO, &out.Swap)
	if network := linux.GetNetwork(); network != nil && !less {
		out.Network = &statsapi.NetworkStats{Time: metav1.NewTime(time.Unix(0, network.Timestamp)), InterfaceStats: iface(network.DefaultInterface)}
		out.Network.Interfaces = append(out.Network.Interfaces, out.Network.InterfaceStats)
		for _, other := range network.Interfaces {
			out.Network.Interfaces = append(out.Network.Interfaces, iface(other))
		}
	}
	if process := linux.GetProcess(); process != nil {
		count := process.GetProcessCount().GetValue()
		out.ProcessStats = &statsapi.ProcessStats{ProcessCount: &count}
	}
	if less {
		return out
	}
	for i := range view.Pod.Spec.Volumes {
		volume := &view.Pod.Spec.Volumes[i]
		switch {
		case volume.EmptyDir != nil:
			dir := filepath.Join(c.DataDir, "pods", string(view.Pod.UID), "volumes", "kubernetes.io~empty-dir", volume.Name)
			size := c.dirUse(dir)
			if stats := used(dir, size); stats != nil {
				out.VolumeStats = append(out.VolumeStats, statsapi.VolumeStats{Name: volume.Name, FsStats: *stats})
			}
			if volume.EmptyDir.Medium == "" {
				storage.add(size)
			}
		case c.Volume != nil:
			if stats, claim := c.Volume(ctx, view.Pod, volume); stats != nil {
				out.VolumeStats = append(out.VolumeStats, statsapi.VolumeStats{Name: volume.Name, FsStats: *stats, PVCRef: claim})
			}
		}
	}
	out.EphemeralStorage = used(c.DataDir, storage)
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
