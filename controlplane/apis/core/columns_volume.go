// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func persistentVolumeColumns() []resource.Column[*v1.PersistentVolume] {
	return column.Standard(
		column.Text("Capacity", "Size of the volume.", func(pv *v1.PersistentVolume) string {
			q := pv.Spec.Capacity[v1.ResourceStorage]
			return q.String()
		}),
		column.Text("Access Modes", "How the volume can be mounted.", func(pv *v1.PersistentVolume) string { return accessModes(pv.Spec.AccessModes) }),
		column.Text("Reclaim Policy", "What happens to the volume when its claim is deleted.",
			func(pv *v1.PersistentVolume) string { return string(pv.Spec.PersistentVolumeReclaimPolicy) }),
		column.Text("Status", "Phase of the volume.", func(pv *v1.PersistentVolume) string {
			if pv.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(pv.Status.Phase)
		}),
		column.Text("Claim", "Claim that the volume is bound to.", func(pv *v1.PersistentVolume) string {
			if pv.Spec.ClaimRef == nil {
				return ""
			}
			return pv.Spec.ClaimRef.Namespace + "/" + pv.Spec.ClaimRef.Name
		}),
		column.Text("StorageClass", "Class of the volume.", func(pv *v1.PersistentVolume) string {
			if class, ok := pv.Annotations[v1.BetaStorageClassAnnotation]; ok {
				return class
			}
			return pv.Spec.StorageClassName
		}),
		column.Text("VolumeAttributesClass", "Attributes class of the volume.",
			func(pv *v1.PersistentVolume) string {
				return column.Pointed(pv.Spec.VolumeAttributesClassName, column.Unset)
			}),
		column.Text("Reason", "Why the volume is in its phase.", func(pv *v1.PersistentVolume) string { return pv.Status.Reason }),
		column.Wide(column.Text("VolumeMode", "Filesystem or Block.", func(pv *v1.PersistentVolume) string {
			return column.Pointed(pv.Spec.VolumeMode,
				column.Unset)
		})),
	)
}

func persistentVolumeClaimColumns() []resource.Column[*v1.PersistentVolumeClaim] {
	// What the claim got is known once it is bound.
	bound := func(of func(*v1.PersistentVolumeClaim) string) func(*v1.PersistentVolumeClaim) string {
		return func(c *v1.PersistentVolumeClaim) string {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return of(c)
		}
	}
	return column.Standard(
		column.Text("Status", "Phase of the claim.", func(c *v1.PersistentVolumeClaim) string {
			if c.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(c.Status.Phase)
		}),
		column.Text("Volume", "Volume that the claim is bound to.", func(c *v1.PersistentVolumeClaim) string { return c.Spec.VolumeName }),
		column.Text("Capacity", "Size of the volume.", bound(func(c *v1.PersistentVolumeClaim) string {
			q := c.Status.Capacity[v1.ResourceStorage]
			return q.String()
		})),
		column.Text("Access Modes", "How the volume can be mounted.",
			bound(func(c *v1.PersistentVolumeClaim) string { return accessModes(c.Status.AccessModes) })),
		column.Text("StorageClass", "Class that the claim asks for.", func(c *v1.PersistentVolumeClaim) string {
			if class, ok := c.Annotations[v1.BetaStorageClassAnnotation]; ok {
				return class
			}
			return column.Pointed(c.Spec.StorageClassName, "")
		}),
		column.Text("VolumeAttributesClass", "Attributes class that the claim asks for.",
			func(c *v1.PersistentVolumeClaim) string {
				return column.Pointed(c.Spec.VolumeAttributesClassName, column.Unset)
			}),
		column.Wide(column.Text("VolumeMode", "Filesystem or Block.",
			func(c *v1.PersistentVolumeClaim) string { return column.Pointed(c.Spec.VolumeMode, column.Unset) })),
	)
}

// accessModes abbreviates the modes in the order of growing exclusiveness, each once.
func accessModes(modes []v1.PersistentVolumeAccessMode) string {
	var parts []string
	for _, m := range []struct {
		mode  v1.PersistentVolumeAccessMode
		short string
	}{{v1.ReadWriteOnce, "RWO"}, {v1.ReadOnlyMany, "ROX"}, {v1.ReadWriteMany, "RWX"}, {v1.ReadWriteOncePod, "RWOP"}} {
		if slices.Contains(modes, m.mode) {
			parts = append(parts, m.short)
		}
	}
	return strings.Join(parts, ",")
}
