// SPDX-License-Identifier: Apache-2.0

package dra

import (
	v1 "k8s.io/api/resource/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func resourceClaimColumns() []resource.Column[*v1.ResourceClaim] {
	return column.Standard(column.Text("State", "Whether the claim has its devices and is in use.", func(c *v1.ResourceClaim) string {
		state := "pending"
		if c.Status.Allocation != nil {
			state = "allocated"
			if len(c.Status.ReservedFor) > 0 {
				state += ",reserved"
			}
		}
		switch {
		case c.DeletionTimestamp == nil:
			return state
		case c.Status.Allocation == nil:
			return "deleted"
		}
		return "deleted," + state
	}))
}

func resourceSliceColumns() []resource.Column[*v1.ResourceSlice] {
	return column.Standard(
		column.Text("Node", "Node that has the devices.", func(s *v1.ResourceSlice) string {
			switch {
			case s.Spec.NodeName != nil:
				return *s.Spec.NodeName
			case s.Spec.AllNodes != nil && *s.Spec.AllNodes:
				return "<all>"
			}
			return column.Unset
		}),
		column.Text("Driver", "DRA driver of the devices.", func(s *v1.ResourceSlice) string { return s.Spec.Driver }),
		column.Text("Pool", "Pool that the slice is a part of.", func(s *v1.ResourceSlice) string { return s.Spec.Pool.Name }),
	)
}
