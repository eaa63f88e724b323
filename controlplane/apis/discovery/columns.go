// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"strconv"

	v1 "k8s.io/api/discovery/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func columns() []resource.Column[*v1.EndpointSlice] {
	return column.Standard(
		column.Text("AddressType", "IPv4, IPv6 or FQDN.", func(s *v1.EndpointSlice) string { return string(s.AddressType) }),
		column.Text("Ports", "Ports of every endpoint.", func(s *v1.EndpointSlice) string {
			var list []string
			for _, p := range s.Ports {
				switch {
				case p.Port != nil:
					list = append(list, strconv.Itoa(int(*p.Port)))
				case p.Name != nil:
					list = append(list, *p.Name)
				default:
					list = append(list, "*")
				}
			}
			return column.Or(column.FirstOf(list, 3, ",", column.Unset), column.Unset)
		}),
		column.Text("Endpoints", "Addresses of the endpoints.", func(s *v1.EndpointSlice) string {
			var list []string
			for _, e := range s.Endpoints {
				list = append(list, e.Addresses...)
			}
			return column.FirstOf(list, 3, ",", column.Unset)
		}),
	)
}
