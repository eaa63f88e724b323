// SPDX-License-Identifier: Apache-2.0

package storage

import (
	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/storage/v1"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
)

func defaultStorageClass(c *v1.StorageClass) {
	if c.ReclaimPolicy == nil {
		c.ReclaimPolicy = new(corev1.PersistentVolumeReclaimDelete)
	}
	if c.VolumeBindingMode == nil {
		c.VolumeBindingMode = new(v1.VolumeBindingImmediate)
	}
}

func defaultCSIDriver(d *v1.CSIDriver) {
	or := func(p **bool, value bool) {
		if *p == nil {
			*p = &value
		}
	}
	s := &d.Spec
	or(&s.AttachRequired, true)
	or(&s.PodInfoOnMount, false)
	or(&s.StorageCapacity, false)
	or(&s.RequiresRepublish, false)
	or(&s.SELinuxMount, false)
	if s.FSGroupPolicy == nil {
		s.FSGroupPolicy = new(v1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []v1.VolumeLifecycleMode{v1.VolumeLifecyclePersistent}
	}
}

// defaultVolumeAttachment fills the volume that an attachment carries inline as a PersistentVolume's spec would be.
func defaultVolumeAttachment(a *v1.VolumeAttachment) {
	spec := a.Spec.Source.InlineVolumeSpec
	if spec == nil {
		return
	}
	podspec.RoundUp(spec.Capacity)
	podspec.DefaultHostPath(spec.HostPath)
	podspec.DefaultAzureDisk(spec.AzureDisk)
}
