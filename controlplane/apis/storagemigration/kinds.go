// SPDX-License-Identifier: Apache-2.0

// Package storagemigration declares the kinds of the storagemigration.k8s.io group (v1).
package storagemigration

import (
	v1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "storagemigration.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		storageVersionMigrations().Resource(),
	}
}

func storageVersionMigrations() resource.Kind[*v1.StorageVersionMigration] {
	return resource.Kind[*v1.StorageVersionMigration]{
		GVR:            group.WithResource("storageversionmigrations"),
		Kind:           "StorageVersionMigration",
		ClusterScoped:  true,
		New:            func() *v1.StorageVersionMigration { return &v1.StorageVersionMigration{} },
		NewList:        func() runtime.Object { return &v1.StorageVersionMigrationList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Columns:        columns(),
		Validate:       validateMigration,
		ValidateUpdate: validateMigrationUpdate,
		ValidateStatus: validateMigrationStatus,
	}
}
