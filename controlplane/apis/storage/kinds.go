// SPDX-License-Identifier: Apache-2.0

// Package storage declares the kinds of the storage.k8s.io group (v1).
package storage

import (
	v1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "storage.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		storageClasses().Resource(),
		volumeAttachments().Resource(),
		csiNodes().Resource(),
		csiDrivers().Resource(),
		csiStorageCapacities().Resource(),
		volumeAttributesClasses().Resource(),
	}
}

func storageClasses() resource.Kind[*v1.StorageClass] {
	return resource.Kind[*v1.StorageClass]{
		GVR:            group.WithResource("storageclasses"),
		Kind:           "StorageClass",
		ShortNames:     []string{"sc"},
		ClusterScoped:  true,
		New:            func() *v1.StorageClass { return &v1.StorageClass{} },
		NewList:        func() runtime.Object { return &v1.StorageClassList{} },
		NoGeneration:   true,
		Default:        defaultStorageClass,
		Columns:        storageClassColumns(),
		Validate:       validateStorageClass,
		ValidateUpdate: validateStorageClassUpdate,
	}
}

func volumeAttachments() resource.Kind[*v1.VolumeAttachment] {
	return resource.Kind[*v1.VolumeAttachment]{
		GVR:                   group.WithResource("volumeattachments"),
		Kind:                  "VolumeAttachment",
		ClusterScoped:         true,
		New:                   func() *v1.VolumeAttachment { return &v1.VolumeAttachment{} },
		NewList:               func() runtime.Object { return &v1.VolumeAttachmentList{} },
		HasStatus:             true,
		NoGeneration:          true,
		ConditionalUpdateOnly: true,
		Default:               defaultVolumeAttachment,
		Columns:               volumeAttachmentColumns(),
		Validate:              validateVolumeAttachment,
		ValidateUpdate:        validateVolumeAttachmentUpdate,
		ValidateStatus:        validateVolumeAttachmentStatus,
	}
}

func csiNodes() resource.Kind[*v1.CSINode] {
	return resource.Kind[*v1.CSINode]{
		GVR:                   group.WithResource("csinodes"),
		Kind:                  "CSINode",
		ClusterScoped:         true,
		New:                   func() *v1.CSINode { return &v1.CSINode{} },
		NewList:               func() runtime.Object { return &v1.CSINodeList{} },
		NoGeneration:          true,
		ConditionalUpdateOnly: true,
		Columns:               csiNodeColumns(),
		Validate:              validateCSINode,
		ValidateUpdate:        validateCSINodeUpdate,
	}
}

func csiDrivers() resource.Kind[*v1.CSIDriver] {
	return resource.Kind[*v1.CSIDriver]{
		GVR:                   group.WithResource("csidrivers"),
		Kind:                  "CSIDriver",
		ClusterScoped:         true,
		New:                   func() *v1.CSIDriver { return &v1.CSIDriver{} },
		NewList:               func() runtime.Object { return &v1.CSIDriverList{} },
		ConditionalUpdateOnly: true,
		Default:               defaultCSIDriver,
		Columns:               csiDriverColumns(),
		Validate:              validateCSIDriver,
		ValidateUpdate:        validateCSIDriverUpdate,
	}
}

func csiStorageCapacities() resource.Kind[*v1.CSIStorageCapacity] {
	return resource.Kind[*v1.CSIStorageCapacity]{
		GVR:            group.WithResource("csistoragecapacities"),
		Kind:           "CSIStorageCapacity",
		New:            func() *v1.CSIStorageCapacity { return &v1.CSIStorageCapacity{} },
		NewList:        func() runtime.Object { return &v1.CSIStorageCapacityList{} },
		NoGeneration:   true,
		Columns:        csiStorageCapacityColumns(),
		Validate:       validateCSIStorageCapacity,
		ValidateUpdate: validateCSIStorageCapacityUpdate,
	}
}

func volumeAttributesClasses() resource.Kind[*v1.VolumeAttributesClass] {
	return resource.Kind[*v1.VolumeAttributesClass]{
		GVR:            group.WithResource("volumeattributesclasses"),
		Kind:           "VolumeAttributesClass",
		ShortNames:     []string{"vac"},
		ClusterScoped:  true,
		New:            func() *v1.VolumeAttributesClass { return &v1.VolumeAttributesClass{} },
		NewList:        func() runtime.Object { return &v1.VolumeAttributesClassList{} },
		NoGeneration:   true,
		Columns:        volumeAttributesClassColumns(),
		Validate:       validateVolumeAttributesClass,
		ValidateUpdate: validateVolumeAttributesClassUpdate,
	}
}
