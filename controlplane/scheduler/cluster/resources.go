// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
)

// Vector holds an amount per resource, by the position that ResourceNames gave its name. CPU is in millicores, everything else in units or bytes.
// A position beyond the end counts as zero.
type Vector []int64

// Positions of the resources that every node has.
const (
	CPU = iota
	Memory
	EphemeralStorage
	PodCount
	fixedResources
)

// At returns the amount at position i.
func (v Vector) At(i int) int64 {
	if i < len(v) {
		return v[i]
	}
	return 0
}

// Add adds sign times o to v and returns v, grown if o is longer.
func (v Vector) Add(o Vector, sign int64) Vector {
	for len(v) < len(o) {
		v = append(v, 0)
	}
	for i, amount := range o {
		v[i] += sign * amount
	}
	return v
}

// Equal reports whether a and b hold the same amounts.
func (v Vector) Equal(o Vector) bool {
	for i := range max(len(v), len(o)) {
		if v.At(i) != o.At(i) {
			return false
		}
	}
	return true
}

// ResourceNames interns resource names as positions in a Vector.
type ResourceNames struct {
	positions map[v1.ResourceName]int
	names     []v1.ResourceName
}

func newResourceNames() *ResourceNames {
	r := &ResourceNames{positions: map[v1.ResourceName]int{}}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, v1.ResourcePods} {
		r.Position(name)
	}
	return r
}

// Position returns name's position and gives it one if it has none.
func (r *ResourceNames) Position(name v1.ResourceName) int {
	if i, ok := r.positions[name]; ok {
		return i
	}
	i := len(r.names)
	r.positions[name] = i
	r.names = append(r.names, name)
	return i
}

// Name returns the name at position i.
func (r *ResourceNames) Name(i int) v1.ResourceName { return r.names[i] }

// Vector converts a resource list.
func (r *ResourceNames) Vector(list v1.ResourceList) Vector {
	v := make(Vector, fixedResources)
	for name, q := range list {
		amount := q.Value()
		if name == v1.ResourceCPU {
			amount = q.MilliValue()
		}
		i := r.Position(name)
		for len(v) <= i {
			v = append(v, 0)
		}
		v[i] = amount
	}
	return v
}

// What a container without a request counts as when nodes are scored (not when they are filtered), so that pods without requests spread too.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

var nonMissing = v1.ResourceList{
	v1.ResourceCPU:    *resourceapi.NewMilliQuantity(defaultMilliCPU, resourceapi.DecimalSI),
	v1.ResourceMemory: *resourceapi.NewQuantity(defaultMemory, resourceapi.BinarySI),
}

// requests returns what pod takes from a node: the sum of its containers and sidecars or the peak of its init containers, whichever is more,
// or its pod-level requests, plus overhead. scored is the same with defaults for containers that request no CPU or memory.
func (r *ResourceNames) requests(pod *v1.Pod) (request Vector, scored [2]int64) {
	opts := resource.PodResourcesOptions{
		UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true, UseDRANodeAllocatableResourceClaimStatus: true}
	request = r.Vector(resource.PodRequests(pod, opts))
	request[PodCount] = 1
	opts.NonMissingContainerRequests = nonMissing
	list := resource.PodRequests(pod, opts)
	scored[CPU] = list.Cpu().MilliValue()
	scored[Memory] = list.Memory().Value()
	return request, scored
}
