// SPDX-License-Identifier: Apache-2.0

// Package eviction ends pods when the node runs short of memory, disk or process numbers, before the kernel does worse.
//
// Decide is pure: thresholds, what the node has left and what pods use, to the signals that are short and the pod to end. The order is that of
// the Kubernetes page "Node-pressure Eviction": pods that use more than they asked for first, then by priority, then by how much more.
package eviction

import (
	"cmp"
	"fmt"
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
	Memory     Signal = "memory.available"
	NodeDisk   Signal = "nodefs.available"
	NodeInodes Signal = "nodefs.inodesFree"
	ImageDisk  Signal = "imagefs.available"
	Processes  Signal = "pid.available"
)

// Level is how much of something there is and how much is left.
type Level struct{ Capacity, Available uint64 }

// Threshold is the least that must be left: an amount, or a share of the capacity in percent.
type Threshold struct {
	Amount  uint64
	Percent float64
}

// Parse reads thresholds by signal: a quantity ("100Mi") or a percentage ("10%").
func Parse(texts map[string]string) (map[Signal]Threshold, error) {
	out := map[Signal]Threshold{}
	for name, text := range texts {
		signal := Signal(name)
		if !slices.Contains([]Signal{Memory, NodeDisk, NodeInodes, ImageDisk, Processes}, signal) {
			return nil, fmt.Errorf("eviction signal %q is not known", name)
		}
		if percent, ok := strings.CutSuffix(text, "%"); ok {
			value, err := strconv.ParseFloat(percent, 64)
			if err != nil || value < 0 || value > 100 {
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

// Least is the threshold as an amount.
func (t Threshold) Least(capacity uint64) uint64 {
	if t.Percent > 0 {
		return uint64(float64(capacity) * t.Percent / 100)
	}
	return t.Amount
}

// Pod is a pod with what it uses.
type Pod struct {
	Pod    *v1.Pod
	Memory uint64 // working set, bytes
	Disk   uint64 // writable layers, logs and emptyDirs, bytes
	Count  uint64 // processes
}

// Decision is what follows from the levels.
type Decision struct {
	Short  []Signal // below their thresholds
	Victim *Pod     // to end now; nil when no signal is short or nothing can be ended
	Reason string   // for people
}

// Decide returns the signals that are short and, for the first of them in the order of memory, disk, processes, the pod to end.
func Decide(thresholds map[Signal]Threshold, levels map[Signal]Level, pods []Pod) Decision {
	var out Decision
	for _, signal := range []Signal{Memory, NodeDisk, NodeInodes, ImageDisk, Processes} {
		threshold, watched := thresholds[signal]
		level, known := levels[signal]
		if !watched || !known || level.Available >= threshold.Least(level.Capacity) {
			continue
		}
		out.Short = append(out.Short, signal)
		if out.Victim != nil {
			continue
		}
		ranked := Rank(signal, pods)
		if len(ranked) == 0 {
			continue
		}
		out.Victim = &ranked[0]
		name := Resource(signal)
		out.Reason = fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %d, available: %d. ", name, threshold.Least(level.Capacity), level.Available)
	}
	return out
}

// Resource is the resource a signal is about, as messages name it.
func Resource(signal Signal) string {
	switch signal {
	case Memory:
		return "memory"
	case NodeInodes:
		return "inodes"
	case Processes:
		return "pids"
	}
	return "ephemeral-storage"
}

// Rank returns the pods that may be ended, the first to go first. Critical and static pods stay.
func Rank(signal Signal, pods []Pod) []Pod {
	out := slices.DeleteFunc(slices.Clone(pods), func(p Pod) bool { return Critical(p.Pod) })
	usage := func(p Pod) (used, asked uint64) {
		switch signal {
		case Memory:
			requests := podresource.PodRequests(p.Pod, podresource.PodResourcesOptions{})
			return p.Memory, uint64(requests.Memory().Value())
		case Processes:
			return p.Count, 0
		}
		requests := podresource.PodRequests(p.Pod, podresource.PodResourcesOptions{})
		storage := requests[v1.ResourceEphemeralStorage]
		return p.Disk, uint64(storage.Value())
	}
	slices.SortStableFunc(out, func(a, b Pod) int {
		usedA, askedA := usage(a)
		usedB, askedB := usage(b)
		return cmp.Or(
			boolCompare(usedB > askedB, usedA > askedA),
			cmp.Compare(priority(a.Pod), priority(b.Pod)),
			cmp.Compare(int64(usedB)-int64(askedB), int64(usedA)-int64(askedA)),
		)
	})
	return out
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

// OverLimit tells which limit of its own on local storage a pod is over; an empty string is none. volumes are the sizes of its emptyDirs.
func OverLimit(p Pod, volumes map[string]uint64) string {
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
	if limit, ok := limits[v1.ResourceEphemeralStorage]; ok && p.Disk > uint64(limit.Value()) {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	return ""
}
