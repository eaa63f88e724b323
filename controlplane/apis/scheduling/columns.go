// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	v1 "k8s.io/api/scheduling/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func columns() []resource.Column[*v1.PriorityClass] {
	return append(column.Standard(
		column.Int("Value", "Priority of the pods; higher goes first.", func(c *v1.PriorityClass) int32 { return c.Value }),
		column.Bool("Global-Default", "Whether pods without a class get this one.", func(c *v1.PriorityClass) bool { return c.GlobalDefault }),
	), column.Text("PreemptionPolicy", "Whether other pods are evicted for it.", func(c *v1.PriorityClass) string {
		return column.Pointed(c.PreemptionPolicy,
			"")
	}))
}
