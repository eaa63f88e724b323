// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/storage/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// marked is the name column of classes of which one is the default.
func marked[T resource.Object](annotations ...string) resource.Column[T] {
	c := column.Name[T]()
	c.Value = func(obj T) any {
		for _, a := range annotations {
			if obj.GetAnnotations()[a] == "true" {
				return obj.GetName() + " (default)"
			}
		}
		return obj.GetName()
	}
	return c
}

func isTrue(b *bool, unset bool) bool {
	if b == nil {
		return unset
	}
	return *b
}

func storageClassColumns() []resource.Column[*v1.StorageClass] {
	cols := column.Standard(
		column.Text("Provisioner", "Who makes volumes of the class.", func(c *v1.StorageClass) string { return c.Provisioner }),
		column.Text("ReclaimPolicy", "What happens to a volume when its claim is deleted.",
			func(c *v1.StorageClass) string {
				return column.Pointed(c.ReclaimPolicy, string(corev1.PersistentVolumeReclaimDelete))
			}),
		column.Text("VolumeBindingMode", "When a claim gets its volume.",
			func(c *v1.StorageClass) string {
				return column.Pointed(c.VolumeBindingMode, string(v1.VolumeBindingImmediate))
			}),
		column.Bool("AllowVolumeExpansion", "Whether volumes can grow.", func(c *v1.StorageClass) bool { return isTrue(c.AllowVolumeExpansion, false) }),
	)
	cols[0] = marked[*v1.StorageClass]("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
	return cols
}

func volumeAttributesClassColumns() []resource.Column[*v1.VolumeAttributesClass] {
	cols := column.Standard(column.Text("DriverName", "CSI driver of the class.", func(c *v1.VolumeAttributesClass) string { return c.DriverName }))
	cols[0] = marked[*v1.VolumeAttributesClass]("volumeattributesclass.alpha.kubernetes.io/is-default-class")
	return cols
}

func volumeAttachmentColumns() []resource.Column[*v1.VolumeAttachment] {
	return column.Standard(
		column.Text("Attacher", "CSI driver that attaches the volume.", func(a *v1.VolumeAttachment) string { return a.Spec.Attacher }),
		column.Text("PV", "Volume that is attached.", func(a *v1.VolumeAttachment) string { return column.Pointed(a.Spec.Source.PersistentVolumeName, "") }),
		column.Text("Node", "Node that it is attached to.", func(a *v1.VolumeAttachment) string { return a.Spec.NodeName }),
		column.Bool("Attached", "Whether it is attached.", func(a *v1.VolumeAttachment) bool { return a.Status.Attached }),
	)
}

func csiNodeColumns() []resource.Column[*v1.CSINode] {
	return column.Standard(column.Int("Drivers", "Number of CSI drivers on the node.", func(n *v1.CSINode) int { return len(n.Spec.Drivers) }))
}

func csiDriverColumns() []resource.Column[*v1.CSIDriver] {
	return column.Standard(
		column.Bool("AttachRequired", "Whether volumes are attached before they are mounted.",
			func(d *v1.CSIDriver) bool { return isTrue(d.Spec.AttachRequired, true) }),
		column.Bool("PodInfoOnMount", "Whether the driver is told about the pod.", func(d *v1.CSIDriver) bool { return isTrue(d.Spec.PodInfoOnMount, false) }),
		column.Bool("StorageCapacity", "Whether pods are scheduled by the driver's capacity.",
			func(d *v1.CSIDriver) bool { return isTrue(d.Spec.StorageCapacity, false) }),
		column.Text("TokenRequests", "Audiences of the tokens that the driver gets.", func(d *v1.CSIDriver) string {
			if d.Spec.TokenRequests == nil {
				return column.Unset
			}
			var list []string
			for _, t := range d.Spec.TokenRequests {
				list = append(list, t.Audience)
			}
			return strings.Join(list, ",")
		}),
		column.Bool("RequiresRepublish", "Whether volumes are published again and again.",
			func(d *v1.CSIDriver) bool { return isTrue(d.Spec.RequiresRepublish, false) }),
		column.Text("Modes", "Kinds of volumes that the driver makes.", func(d *v1.CSIDriver) string {
			var list []string
			for _, m := range d.Spec.VolumeLifecycleModes {
				list = append(list, string(m))
			}
			return column.Or(strings.Join(list, ","), column.None)
		}),
	)
}

func csiStorageCapacityColumns() []resource.Column[*v1.CSIStorageCapacity] {
	return []resource.Column[*v1.CSIStorageCapacity]{
		column.Name[*v1.CSIStorageCapacity](),
		column.Text("StorageClassName", "Class that the capacity is for.", func(c *v1.CSIStorageCapacity) string { return c.StorageClassName }),
		column.Text("Capacity", "What is left.", func(c *v1.CSIStorageCapacity) string {
			if c.Capacity == nil {
				return column.Unset
			}
			return c.Capacity.String()
		}),
	}
}
