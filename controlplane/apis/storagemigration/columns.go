// SPDX-License-Identifier: Apache-2.0

package storagemigration

import (
	v1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func columns() []resource.Column[*v1.StorageVersionMigration] {
	return []resource.Column[*v1.StorageVersionMigration]{
		column.Name[*v1.StorageVersionMigration](),
		column.Text("Resource", "Resource whose objects are written anew.", func(m *v1.StorageVersionMigration) string {
			return schema.GroupResource(m.Spec.Resource).String()
		}),
	}
}
