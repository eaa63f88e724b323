// SPDX-License-Identifier: Apache-2.0

// Package eviction ends pods when the node runs short of memory, disk, inodes or process numbers, before the kernel does worse.
//
//	levels ──▶ Pressure.Observe ──▶ what is short ──▶ Rank ──▶ the pod to end
//	                     └──────▶ Conditions ──▶ the node's status
//
// It follows the Kubernetes page "Node-pressure Eviction": hard thresholds act at once, soft ones after their grace period; pods that use more
// than they asked for go first, then by priority, then by how much more. Nothing here reads the machine or the clock.
package eviction

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
)

// Signal is what a threshold watches.
type Signal string

const (
	Memory      Signal = "memory.available"
	NodeDisk    Signal = "nodefs.available"
	NodeInodes  Signal = "nodefs.inodesFree"
	ImageDisk   Signal = "imagefs.available"
	ImageInodes Signal = "imagefs.inodesFree"
	Processes   Signal = "pid.available"

	// PodMemory is what all pods together may still use of the node's allocatable memory. It follows Memory's hard threshold and is not configured.
	PodMemory Signal = "allocatableMemory.available"
)

var configurable = []Signal{Memory, NodeDisk, NodeInodes, ImageDisk, ImageInodes, Processes}

// Level is how much of something there is and how much is left.
type Level struct{ Capacity, Available uint64 }

// Threshold is the least that must be left: an amount, or a share of the capacity in percent.
type Threshold struct {
	Amount  uint64
	Percent float64
}

// Least is the threshold as an amount.
func (t Threshold) Least(capacity uint64) uint64 {
	if t.Percent > 0 {
		return uint64(float64(capacity) * t.Percent / 100)
	}
	return t.Amount
}

// NewPolicy reads settings. It refuses signals it does not know, soft thresholds without a grace period, and amounts that are none.
func NewPolicy(s Settings) (Policy, error) {
	hard, err1 := parse(s.Hard)
	soft, err2 := parse(s.Soft)
	reclaim, err3 := parse(s.Reclaim)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Policy{}, err
	}
	for name := range s.SoftGrace {
		if _, ok := soft[Signal(name)]; !ok {
			return Policy{}, fmt.Errorf("soft eviction grace period of %s: there is no such soft threshold", name)
		}
	}
	out := Policy{hold: s.Hold, maxGrace: s.MaxGrace}
	for _, signal := range configurable {
		if least, ok := hard[signal]; ok && least != (Threshold{}) {
			out.thresholds = append(out.thresholds, rule{signal: signal, least: least, reclaim: reclaim[signal]})
			if signal == Memory {
				out.thresholds = append(out.thresholds, rule{signal: PodMemory, least: least, reclaim: reclaim[signal]})
			}
		}
		if least, ok := soft[signal]; ok {
			grace, given := s.SoftGrace[string(signal)]
			if !given || grace <= 0 {
				return Policy{}, fmt.Errorf("soft eviction threshold of %s needs a grace period", signal)
			}
			out.thresholds = append(out.thresholds, rule{signal: signal, least: least, reclaim: reclaim[signal], soft: true, grace: grace})
		}
	}
	return out, nil
}

// parse reads amounts by signal: a quantity ("100Mi") or a percentage ("10%").
func parse(texts map[string]string) (map[Signal]Threshold, error) {
	out := map[Signal]Threshold{}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		signal, text := Signal(name), texts[name]
		if !slices.Contains(configurable, signal) {
			return nil, fmt.Errorf("eviction signal %q is not known; there are %v", name, configurable)
		}
		if percent, ok := strings.CutSuffix(text, "%"); ok {
			value, err := strconv.ParseFloat(percent, 64)
			if err != nil || !(value >= 0 && value <= 100) {
				return nil, fmt.Errorf("eviction threshold %q of %s is not a percentage", text, name)
			}
			out[signal] = Threshold{Percent: value}
			continue
		}
		quantity, err := resource.ParseQuantity(text)
		if err != nil || quantity.Sign() < 0 {
			return nil, fmt.Errorf("eviction threshold %q of %s is neither a quantity nor a percentage", text, name)
		}
		out[signal] = Threshold{Amount: uint64(quantity.Value())}
	}
	return out, nil
}

// Usage is space on a filesystem.
type Usage struct{ Bytes, Inodes uint64 }

func (u Usage) plus(v Usage) Usage { return Usage{u.Bytes + v.Bytes, u.Inodes + v.Inodes} }

// Pod is a pod with what it uses.
type Pod struct {
	Pod    *v1.Pod
	Memory uint64 // working set, bytes
	Local  Usage  // logs and emptyDirs: on the node's filesystem
	Layers Usage  // containers' writable layers: on the image filesystem
	Count  uint64 // processes
}

// Disk is all local storage of the pod.
func (p Pod) Disk() Usage { return p.Local.plus(p.Layers) }

// Resource is the resource a signal is about, as messages name it.
func Resource(signal Signal) string {
	switch signal {
	case Memory, PodMemory:
		return "memory"
	case NodeInodes, ImageInodes:
		return "inodes"
	case Processes:
		return "pids"
	}
	return "ephemeral-storage"
}

// Reason tells people why a pod had to go.
func (s Short) Reason() string {
	text := func(n uint64) string {
		if r := Resource(s.Signal); r == "inodes" || r == "pids" {
			return strconv.FormatUint(n, 10)
		}
		return resource.NewQuantity(int64(n), resource.BinarySI).String()
	}
	return fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", Resource(s.Signal), text(s.Least), text(s.Available))
}

// Rank returns the pods that may be ended for a signal, the first to go first. Critical and static pods stay. separate tells that images and
// writable layers are on a filesystem of their own: then only what is on the filesystem that is short counts.
func Rank(signal Signal, pods []Pod, separate bool) []Pod {
	out := slices.DeleteFunc(slices.Clone(pods), func(p Pod) bool { return Critical(p.Pod) })
	type weight struct{ used, asked uint64 }
	weights := map[*v1.Pod]weight{}
	for _, p := range out {
		used, name := measure(signal, p, separate)
		asked := uint64(0)
		if name != "" {
			requests := podresource.PodRequests(p.Pod, podresource.PodResourcesOptions{})
			quantity := requests[name]
			asked = uint64(quantity.Value())
		}
		weights[p.Pod] = weight{used, asked}
	}
	slices.SortStableFunc(out, func(a, b Pod) int {
		x, y := weights[a.Pod], weights[b.Pod]
		return cmp.Or(
			boolCompare(y.used > y.asked, x.used > x.asked),
			cmp.Compare(priority(a.Pod), priority(b.Pod)),
			cmp.Compare(int64(y.used)-int64(y.asked), int64(x.used)-int64(x.asked)),
		)
	})
	return out
}

// measure is what a pod uses of what a signal is about, and the resource its requests for that are named by, if any.
func measure(signal Signal, p Pod, separate bool) (uint64, v1.ResourceName) {
	disk := p.Disk()
	switch signal {
	case Memory, PodMemory:
		return p.Memory, v1.ResourceMemory
	case Processes:
		return p.Count, ""
	case NodeDisk, NodeInodes:
		if separate {
			disk = p.Local
		}
	case ImageDisk, ImageInodes:
		if separate {
			disk = p.Layers
		}
	}
	if signal == NodeInodes || signal == ImageInodes {
		return disk.Inodes, ""
	}
	return disk.Bytes, v1.ResourceEphemeralStorage
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func priority(pod *v1.Pod) int32 {
	if pod.Spec.Priority != nil {
		return *pod.Spec.Priority
	}
	return 0
}

// Critical tells whether a pod is never ended for the node's sake: static, mirror and system-critical pods.
func Critical(pod *v1.Pod) bool {
	const systemCritical = 2000000000
	_, mirror := pod.Annotations[v1.MirrorPodAnnotationKey]
	return mirror || pod.Annotations["kubernetes.io/config.source"] == "file" || priority(pod) >= systemCritical
}

// OverLimit tells which limit of its own on local storage a pod is over; an empty string is none. volumes are the sizes of its emptyDirs,
// containers what each container's logs and writable layer take.
func OverLimit(p Pod, volumes, containers map[string]uint64) string {
	for i := range p.Pod.Spec.Volumes {
		volume := &p.Pod.Spec.Volumes[i]
		if volume.EmptyDir == nil || volume.EmptyDir.SizeLimit == nil || volume.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if limit := volume.EmptyDir.SizeLimit; volumes[volume.Name] > uint64(limit.Value()) {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", volume.Name, limit.String())
		}
	}
	limits := podresource.PodLimits(p.Pod, podresource.PodResourcesOptions{})
	if limit, ok := limits[v1.ResourceEphemeralStorage]; ok && p.Disk().Bytes > uint64(limit.Value()) {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		if limit, ok := c.Resources.Limits[v1.ResourceEphemeralStorage]; ok && containers[c.Name] > uint64(limit.Value()) {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}
