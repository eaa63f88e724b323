// SPDX-License-Identifier: Apache-2.0

package node

import (
	v1 "k8s.io/api/node/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func columns() []resource.Column[*v1.RuntimeClass] {
	return column.Standard(column.Text("Handler", "Handler of the container runtime.", func(c *v1.RuntimeClass) string { return c.Handler }))
}
