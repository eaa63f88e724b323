// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	v1 "k8s.io/api/coordination/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func columns() []resource.Column[*v1.Lease] {
	return column.Standard(column.Text("Holder", "Who holds the lease.", func(l *v1.Lease) string { return column.Pointed(l.Spec.HolderIdentity, "") }))
}
