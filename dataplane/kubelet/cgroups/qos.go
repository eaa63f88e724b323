// SPDX-License-Identifier: Apache-2.0

// Package cgroups places pods in the cgroup tree of their node and turns requests and limits into cgroup settings, on cgroup v2,
// v1 and hosts with both.
//
//	<root>                     Config.CgroupRoot: one per node, so that several nodes can share a kernel
//	└── kubepods               limited to the node's allocatable resources
//	    ├── pod<uid>           guaranteed
//	    ├── burstable/pod<uid>
//	    └── besteffort/pod<uid>
package cgroups

import (
	"path"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

const (
	minShares   = 2
	maxShares   = 262144
	minQuota    = 1000   // µs
	QuotaPeriod = 100000 // µs
)

// QOSClass is the pod's class: Guaranteed when every container limits CPU and memory and requests as much, BestEffort when
// none asks for anything, else Burstable. Resources of the pod as a whole, when given, decide instead of its containers'.
func QOSClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	return ComputeQOSClass(pod)
}

// ComputeQOSClass ignores what the status says.
func ComputeQOSClass(pod *v1.Pod) v1.PodQOSClass {
	sets := []v1.ResourceRequirements{}
	if r := pod.Spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 {
		sets = append(sets, *r)
	} else {
		for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				sets = append(sets, list[i].Resources)
			}
		}
	}
	guaranteed, any := true, false
	for _, set := range sets {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			limit, limited := positive(set.Limits, name)
			request, requested := positive(set.Requests, name)
			any = any || limited || requested
			if !limited || requested && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

func positive(list v1.ResourceList, name v1.ResourceName) (resource.Quantity, bool) {
	quantity, ok := list[name]
	return quantity, ok && quantity.Sign() > 0
}

// Parent is the cgroup of a class below root.
func Parent(root string, class v1.PodQOSClass) string {
	switch class {
	case v1.PodQOSBestEffort:
		return path.Join("/", root, "kubepods", "besteffort")
	case v1.PodQOSBurstable:
		return path.Join("/", root, "kubepods", "burstable")
	}
	return path.Join("/", root, "kubepods")
}

// Pod is the cgroup of one pod below root.
func Pod(root string, class v1.PodQOSClass, uid types.UID) string {
	return path.Join(Parent(root, class), "pod"+string(uid))
}

// Shares turns a CPU request in thousandths into cpu.shares (cgroup v1 scale, which CRI uses): 1024 for one CPU.
func Shares(milliCPU int64) int64 {
	if milliCPU == 0 {
		return minShares
	}
	return min(max(milliCPU*1024/1000, minShares), maxShares)
}

// Quota turns a CPU limit in thousandths into microseconds per QuotaPeriod; 0 is no limit.
func Quota(milliCPU int64) int64 {
	if milliCPU == 0 {
		return 0
	}
	return max(milliCPU*QuotaPeriod/1000, minQuota)
}

// OOMScoreAdj is the kernel's adjustment for a container's processes: the less of its node a burstable container asked for, the sooner it goes.
func OOMScoreAdj(pod *v1.Pod, container *v1.Container, nodeMemory int64) int64 {
	if pod.Spec.PriorityClassName == "system-node-critical" || pod.Spec.Priority != nil && *pod.Spec.Priority >= 2000001000 {
		return -997
	}
	switch QOSClass(pod) {
	case v1.PodQOSGuaranteed:
		return -997
	case v1.PodQOSBestEffort:
		return 1000
	}
	if nodeMemory <= 0 {
		return 999
	}
	adjust := 1000 - 1000*container.Resources.Requests.Memory().Value()/nodeMemory
	return min(max(adjust, 3), 999)
}
