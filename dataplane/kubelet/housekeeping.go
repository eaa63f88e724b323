// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"slices"
	gosync "sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

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
	pressureHold     = 5 * time.Minute // a pressure condition stays at least this long, so that it does not flap
	imagePeriod      = 5 * time.Minute
	evictionGrace    = 0 // hard thresholds give no time
	evictionSettling = 30 * time.Second
)

// housekeeper keeps the node from filling up: it rotates logs, removes unused images and evicts pods.
type housekeeper struct {
	*kubelet
	thresholds map[eviction.Signal]eviction.Threshold
	collector  *images.Collector
	rotator    containerlogs.Rotator

	mu    gosync.Mutex
	short map[eviction.Signal]time.Time // when each signal was last below its threshold
}

func newHousekeeper(k *kubelet) (*housekeeper, error) {
	thresholds, err := eviction.Parse(k.cfg.EvictionHard)
	if err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	h := &housekeeper{kubelet: k, thresholds: thresholds, short: map[eviction.Signal]time.Time{}}
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-pressure.C:
			h.rotateLogs(ctx)
			if time.Now().Before(settled) {
				continue // what the last eviction frees does not show at once
			}
			evicted, err := h.relieve(ctx)
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
	containers, err := h.runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, c := range containers {
		used[c.ImageRef], used[c.ImageId], used[c.GetImage().GetImage()] = true, true, true
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
	if used < h.cfg.ImageGCHigh {
		return h.collector.Note(ctx)
	}
	wanted := capacity*uint64(100-h.cfg.ImageGCLow)/100 - available
	freed, err := h.collector.Free(ctx, wanted)
	if err == nil && freed < wanted {
		klog.FromContext(ctx).Info("Not enough images are unused", "wanted", wanted, "freed", freed)
	}
	return err
}

// relieve looks at the thresholds and ends at most one pod.
func (h *housekeeper) relieve(ctx context.Context) (evicted bool, err error) {
	pods, over, err := h.usage(ctx)
	if err != nil {
		return false, err
	}
	for _, one := range over {
		evicted = h.evict(ctx, one.pod, one.reason) || evicted
	}
	decision := eviction.Decide(h.thresholds, h.levels(ctx), pods)
	h.mu.Lock()
	now := time.Now()
	changed := false
	for _, signal := range decision.Short {
		_, before := h.short[signal]
		h.short[signal], changed = now, changed || !before
	}
	for signal, last := range h.short {
		if now.Sub(last) > pressureHold {
			delete(h.short, signal)
			changed = true
		}
	}
	h.mu.Unlock()
	if changed {
		h.keeper.Poke()
	}
	if len(decision.Short) == 0 {
		return evicted, nil
	}
	if slices.ContainsFunc(decision.Short, func(s eviction.Signal) bool {
		return s == eviction.NodeDisk || s == eviction.ImageDisk || s == eviction.NodeInodes
	}) {
		if freed, err := h.collector.Free(ctx, 0); err == nil && freed > 0 {
			return evicted, nil // look again before a pod has to go
		}
	}
	if decision.Victim != nil {
		evicted = h.evict(ctx, decision.Victim.Pod, decision.Reason) || evicted
	}
	return evicted, nil
}

func (h *housekeeper) evict(ctx context.Context, pod *v1.Pod, reason string) bool {
	klog.FromContext(ctx).Info("Evicting a pod", "pod", klog.KObj(pod), "reason", reason)
	h.events.pod(pod, "", true, "Evicted", reason)
	return h.workers.Evict(pod.UID, "Evicted", reason, evictionGrace, &v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: reason,
	})
}

func (h *housekeeper) levels(ctx context.Context) map[eviction.Signal]eviction.Level {
	out := map[eviction.Signal]eviction.Level{}
	total, available := stats.NodeMemory()
	out[eviction.Memory] = eviction.Level{Capacity: total, Available: available}
	if fs := stats.Filesystem(h.cfg.DataDir); fs != nil {
		out[eviction.NodeDisk] = eviction.Level{Capacity: *fs.CapacityBytes, Available: *fs.AvailableBytes}
		if *fs.Inodes > 0 {
			out[eviction.NodeInodes] = eviction.Level{Capacity: *fs.Inodes, Available: *fs.InodesFree}
		}
	}
	if response, err := h.images.ImageFsInfo(ctx); err == nil && len(response.ImageFilesystems) > 0 {
		if fs := stats.Filesystem(response.ImageFilesystems[0].GetFsId().GetMountpoint()); fs != nil {
			out[eviction.ImageDisk] = eviction.Level{Capacity: *fs.CapacityBytes, Available: *fs.AvailableBytes}
		}
	}
	if most, running := stats.Processes(); most > 0 {
		out[eviction.Processes] = eviction.Level{Capacity: uint64(most), Available: uint64(max(most-running, 0))}
	}
	return out
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
		if s.EphemeralStorage != nil && s.EphemeralStorage.UsedBytes != nil {
			pod.Disk = *s.EphemeralStorage.UsedBytes
		}
		if s.ProcessStats != nil && s.ProcessStats.ProcessCount != nil {
			pod.Count = *s.ProcessStats.ProcessCount
		}
		volumes := map[string]uint64{}
		for _, volume := range s.VolumeStats {
			if volume.UsedBytes != nil {
				volumes[volume.Name] = *volume.UsedBytes
			}
		}
		if reason := eviction.OverLimit(pod, volumes); reason != "" {
			over = append(over, overLimit{view.Pod, reason})
			continue
		}
		pods = append(pods, pod)
	}
	return pods, over, nil
}

// conditions are the node's pressure conditions.
func (h *housekeeper) conditions() []node.Condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := noPressure()
	for signal := range h.short {
		switch signal {
		case eviction.Memory:
			out[0] = node.Condition{Type: v1.NodeMemoryPressure, Status: v1.ConditionTrue, Reason: "KubeletHasInsufficientMemory", Message: "kubelet has insufficient memory available"}
		case eviction.Processes:
			out[2] = node.Condition{Type: v1.NodePIDPressure, Status: v1.ConditionTrue, Reason: "KubeletHasInsufficientPID", Message: "kubelet has insufficient PID available"}
		default:
			out[1] = node.Condition{Type: v1.NodeDiskPressure, Status: v1.ConditionTrue, Reason: "KubeletHasDiskPressure", Message: "kubelet has disk pressure"}
		}
	}
	return out
}
