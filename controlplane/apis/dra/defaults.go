// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"time"

	v1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func defaultResourceClaim(c *v1.ResourceClaim) {
	defaultClaimSpec(&c.Spec)
	if c.Status.Allocation != nil {
		for i := range c.Status.Allocation.Devices.Results {
			defaultTolerations(c.Status.Allocation.Devices.Results[i].Tolerations)
		}
	}
}

func defaultResourceClaimTemplate(t *v1.ResourceClaimTemplate) { defaultClaimSpec(&t.Spec.Spec) }

func defaultClaimSpec(s *v1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			defaultAllocation(&r.Exactly.AllocationMode, &r.Exactly.Count)
			defaultTolerations(r.Exactly.Tolerations)
		}
		for j := range r.FirstAvailable {
			defaultAllocation(&r.FirstAvailable[j].AllocationMode, &r.FirstAvailable[j].Count)
			defaultTolerations(r.FirstAvailable[j].Tolerations)
		}
	}
}

func defaultAllocation(mode *v1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = v1.DeviceAllocationModeExactCount
	}
	if *mode == v1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultTolerations(ts []v1.DeviceToleration) {
	for i := range ts {
		if ts[i].Operator == "" {
			ts[i].Operator = v1.DeviceTolerationOpEqual
		}
	}
}

// defaultResourceSlice dates taints that have no date: a slice is written by a driver, which need not know the time of its own taint.
func defaultResourceSlice(s *v1.ResourceSlice) {
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		for j := range d.Taints {
			defaultTaint(&d.Taints[j])
		}
	}
}

func defaultDeviceTaintRule(r *v1.DeviceTaintRule) { defaultTaint(&r.Spec.Taint) }

func defaultTaint(t *v1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = new(metav1.NewTime(time.Now().Truncate(time.Second)))
	}
}
