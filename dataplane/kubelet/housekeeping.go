// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"slices"
	gosync "sync"
	"time"

	v1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/containerlogs"
	"github.com/fairlead/fairlead/dataplane/kubelet/eviction"
	"github.com/fairlead/fairlead/dataplane/kubelet/images"
	"github.com/fairlead/fairlead/dataplane/kubelet/node"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
	"github.com/fairlead/fairlead/dataplane/kubelet/stats"
)

const (
	pressurePeriod   = 10 * time.Second
	imagePeriod      = 5 * time.Minute
	evictionSettling = 30 * time.Second
)

// housekeeper keeps the node from filling up: it rotates logs, removes unused images and evicts pods.
type housekeeper struct {
	*kubelet
	collector *images.Collector
	rotator   containerlogs.Rotator

	mu       gosync.Mutex
	pressure *eviction.Pressure
	shown    []v1.NodeConditionType // as last given to the node's status
}

func newHousekeeper(k *kubelet) (*housekeeper, error) {
	policy, err := eviction.NewPolicy(eviction.Settings{
		Hard: k.cfg.EvictionHard, Soft: k.cfg.EvictionSoft, SoftGrace: k.cfg.EvictionSoftGrace, Reclaim: k.cfg.EvictionMinimumReclaim,
		Hold: k.cfg.EvictionPressureTransition, MaxGrace: k.cfg.EvictionMaxPodGrace,
	})
	if err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	h := &housekeeper{kubelet: k, pressure: policy.Watch()}
	h.collector = &images.Collector{Service: k.images, Used: h.usedImages}
	h.rotator = containerlogs.Rotator{MaxSize: k.cfg.ContainerLogMaxSize, MaxFiles: k.cfg.ContainerLogMaxFiles, Reopen: k.runtime.ReopenContainerLog, Now: time.Now}
	return h, nil
}

func (h *housekeeper) run(ctx context.Context) {
	log := klog.FromContext(ctx)
	pressure, imageTick := time.NewTicker(pressurePeriod), time.NewTicker(imagePeriod)
	defer pressure.Stop()
	defer imageTick.Stop()
	settled := time.Time{}
	note := stats.Note{}
	h.keeper.Annotate(node.PressureAnnotation, note.Update(cgroups.NodePressure()))
	for {
		select {
		case <-ctx.Done():
			return
		case <-pressure.C:
			h.keeper.Annotate(node.PressureAnnotation, note.Update(cgroups.NodePressure()))
			if err := h.cgroups.Weigh(h.burstableCPU()); err != nil {
				log.Error(err, "The weight of burstable pods was not set")
			}
			h.rotateLogs(ctx)
			evicted, err := h.relieve(ctx, time.Now().After(settled)) // what the last eviction frees does not show at once
			if err != nil && ctx.Err() == nil {
				log.V(2).Info("Pressure of the node is not known", "err", err)
			}
			if evicted {
				settled = time.Now().Add(evictionSettling)
			}
		case <-imageTick.C:
			if err := h.collectImages(ctx); err != nil && ctx.Err() == nil {
				log.Error(err, "Unused images were not removed")
			}
		}
	}
}

func (h *housekeeper) rotateLogs(ctx context.Context) {
	for _, view := range h.workers.Views() {
		for i := range view.Observed.Containers {
			c := &view.Observed.Containers[i]
			if c.State != observed.Running || c.LogPath == "" {
				continue
			}
			if err := h.rotator.Rotate(ctx, c.ID, c.LogPath); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "A container's log was not rotated", "pod", klog.KObj(view.Pod), "container", c.Name)
			}
		}
	}
}

// usedImages are those of all containers, running or not, and of image volumes.
func (h *housekeeper) usedImages(ctx context.Context) (map[string]bool, error) {
	used, err := images.OfContainers(ctx, h.runtime)
	if err != nil {
		return nil, err
	}
	for _, view := range h.workers.Views() {
		for i := range view.Pod.Spec.Volumes {
			if image := view.Pod.Spec.Volumes[i].Image; image != nil {
				if full, err := images.Normalize(image.Reference); err == nil {
					used[full] = true
				}
			}
		}
	}
	return used, nil
}

// collectImages frees the image filesystem down to the lower mark when it is above the upper.
func (h *housekeeper) collectImages(ctx context.Context) error {
	response, err := h.images.ImageFsInfo(ctx)
	if err != nil || len(response.ImageFilesystems) == 0 {
		return fmt.Errorf("image filesystem: %w", err)
	}
	fs := stats.Filesystem(response.ImageFilesystems[0].GetFsId().GetMountpoint())
	if fs == nil || *fs.CapacityBytes == 0 {
		return h.collector.Note(ctx)
	}
	capacity, available := *fs.CapacityBytes, *fs.AvailableBytes
	used := 100 - int(100*available/capacity)
	if used < h.cfg.ImageGCHigh || h.cfg.ImageGCHigh == 100 {
		return h.collector.Note(ctx)
	}
	wanted := capacity*uint64(100-h.cfg.ImageGCLow)/100 - available
	freed, err := h.collector.Free(ctx, wanted)
	if err == nil && freed < wanted {
		klog.FromContext(ctx).Info("Not enough images are unused", "wanted", wanted, "freed", freed)
	}
	return err
}

// burstableCPU is what all burstable pods together asked for, in thousandths of a CPU.
func (h *housekeeper) burstableCPU() (milli int64) {
	for _, view := range h.workers.Views() {
		if !view.Ended && cgroups.QOSClass(view.Pod) == v1.PodQOSBurstable {
			requests := podresource.PodRequests(view.Pod, podresource.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	return milli
}

// relieve looks at the thresholds for the node's conditions and, when it may act, ends at most one pod; pods over limits of their own all go.
func (h *housekeeper) relieve(ctx context.Context, act bool) (evicted bool, err error) {
	pods, over, err := h.usage(ctx)
	if err != nil {
		return false, err
	}
	if act {
		for _, one := range over {
			evicted = h.evict(ctx, one.pod, one.reason, 0, "ephemeral-storage") || evicted
		}
	}
	levels, separate := h.levels(ctx)
	now := time.Now()
	h.mu.Lock()
	short := h.pressure.Observe(levels, now)
	conditions := h.pressure.Conditions(now)
	changed := !slices.Equal(conditions, h.shown)
	h.shown = conditions
	h.mu.Unlock()
	if changed {
		h.keeper.Poke()
	}
	if len(short) == 0 || !act {
		return evicted, nil
	}
	worst := short[0]
	if eviction.Condition(worst.Signal) == v1.NodeDiskPressure {
		if freed, err := h.collector.Free(ctx, 0); err == nil && freed > 0 {
			return evicted, nil // look again before a pod has to go
		}
	}
	if ranked := eviction.Rank(worst.Signal, pods, separate); len(ranked) > 0 {
		victim := ranked[0].Pod
		grace := time.Duration(0) // hard thresholds give no time
		if worst.Grace > 0 {
			grace = min(worst.Grace, podGraceOf(victim))
		}
		evicted = h.evict(ctx, victim, worst.Reason(), grace, string(worst.Signal)) || evicted
	}
	return evicted, nil
}

// podGraceOf is the time a pod's spec gives it to end.
func podGraceOf(pod *v1.Pod) time.Duration {
	if seconds := pod.Spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return v1.DefaultTerminationGracePeriodSeconds * time.Second
}

func (h *housekeeper) evict(ctx context.Context, pod *v1.Pod, reason string, grace time.Duration, signal string) bool {
	klog.FromContext(ctx).Info("Evicting a pod", "pod", klog.KObj(pod), "reason", reason)
	h.events.pod(pod, "", true, "Evicted", reason)
	h.metrics.evictions.WithLabelValues(signal).Inc()
	return h.workers.Evict(pod.UID, "Evicted", reason, grace, &v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: reason,
	})
}

// levels is what there is and what is left of everything thresholds may watch; separate tells that images have a filesystem of their own.
func (h *housekeeper) levels(ctx context.Context) (levels map[eviction.Signal]eviction.Level, separate bool) {
	levels = map[eviction.Signal]eviction.Level{}
	total, available := stats.NodeMemory()
	levels[eviction.Memory] = eviction.Level{Capacity: total, Available: available}
	if capacity, available, ok := h.stats.PodMemory(); ok {
		levels[eviction.PodMemory] = eviction.Level{Capacity: capacity, Available: available}
	}
	filesystem := func(dir string, space, inodes eviction.Signal) {
		fs := stats.Filesystem(dir)
		if fs == nil {
			return
		}
		levels[space] = eviction.Level{Capacity: *fs.CapacityBytes, Available: *fs.AvailableBytes}
		if *fs.Inodes > 0 {
			levels[inodes] = eviction.Level{Capacity: *fs.Inodes, Available: *fs.InodesFree}
		}
	}
	filesystem(h.cfg.DataDir, eviction.NodeDisk, eviction.NodeInodes)
	if response, err := h.images.ImageFsInfo(ctx); err == nil && len(response.ImageFilesystems) > 0 {
		dir := response.ImageFilesystems[0].GetFsId().GetMountpoint()
		filesystem(dir, eviction.ImageDisk, eviction.ImageInodes)
		separate = !stats.SameFilesystem(dir, h.cfg.DataDir)
	}
	if most, running := stats.Processes(); most > 0 {
		levels[eviction.Processes] = eviction.Level{Capacity: uint64(most), Available: uint64(max(most-running, 0))}
	}
	return levels, separate
}

type overLimit struct {
	pod    *v1.Pod
	reason string
}

// usage is what each pod that runs uses, and which are over limits of their own.
func (h *housekeeper) usage(ctx context.Context) (pods []eviction.Pod, over []overLimit, err error) {
	summary, err := h.stats.Summary(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	views := map[string]podworker.View{}
	for _, view := range h.workers.Views() {
		if !view.Ended && view.Pod.DeletionTimestamp == nil && view.Pod.Name != "" {
			views[string(view.Pod.UID)] = view
		}
	}
	for i := range summary.Pods {
		s := &summary.Pods[i]
		view, ok := views[s.PodRef.UID]
		if !ok {
			continue
		}
		pod := eviction.Pod{Pod: view.Pod}
		if s.Memory != nil && s.Memory.WorkingSetBytes != nil {
			pod.Memory = *s.Memory.WorkingSetBytes
		}
		containers := map[string]uint64{}
		for j := range s.Containers {
			one := &s.Containers[j]
			logs, layer := use(one.Logs), use(one.Rootfs)
			containers[one.Name] = logs.Bytes + layer.Bytes
			pod.Local = eviction.Usage{Bytes: pod.Local.Bytes + logs.Bytes, Inodes: pod.Local.Inodes + logs.Inodes}
			pod.Layers = eviction.Usage{Bytes: pod.Layers.Bytes + layer.Bytes, Inodes: pod.Layers.Inodes + layer.Inodes}
		}
		if s.ProcessStats != nil && s.ProcessStats.ProcessCount != nil {
			pod.Count = *s.ProcessStats.ProcessCount
		}
		volumes := map[string]uint64{}
		for _, volume := range s.VolumeStats {
			if i := slices.IndexFunc(view.Pod.Spec.Volumes, func(v v1.Volume) bool { return v.Name == volume.Name }); i < 0 || view.Pod.Spec.Volumes[i].EmptyDir == nil {
				continue
			} else if u := use(&volume.FsStats); view.Pod.Spec.Volumes[i].EmptyDir.Medium == v1.StorageMediumDefault {
				pod.Local = eviction.Usage{Bytes: pod.Local.Bytes + u.Bytes, Inodes: pod.Local.Inodes + u.Inodes}
			}
			volumes[volume.Name] = use(&volume.FsStats).Bytes
		}
		if reason := eviction.OverLimit(pod, volumes, containers); reason != "" {
			over = append(over, overLimit{view.Pod, reason})
			continue
		}
		pods = append(pods, pod)
	}
	return pods, over, nil
}

// use is what a part of a pod has of its filesystem.
func use(fs *statsapi.FsStats) (u eviction.Usage) {
	if fs != nil && fs.UsedBytes != nil {
		u.Bytes = *fs.UsedBytes
	}
	if fs != nil && fs.InodesUsed != nil {
		u.Inodes = *fs.InodesUsed
	}
	return u
}

// conditions are the node's pressure conditions.
func (h *housekeeper) conditions() []node.Condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := noPressure()
	for _, kind := range h.shown {
		switch kind {
		case v1.NodeMemoryPressure:
			out[0] = node.Condition{Type: kind, Status: v1.ConditionTrue, Reason: "KubeletHasInsufficientMemory", Message: "kubelet has insufficient memory available"}
		case v1.NodeDiskPressure:
			out[1] = node.Condition{Type: kind, Status: v1.ConditionTrue, Reason: "KubeletHasDiskPressure", Message: "kubelet has disk pressure"}
		case v1.NodePIDPressure:
			out[2] = node.Condition{Type: kind, Status: v1.ConditionTrue, Reason: "KubeletHasInsufficientPID", Message: "kubelet has insufficient PID available"}
		}
	}
	return out
}
