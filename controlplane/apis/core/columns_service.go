// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func serviceColumns() []resource.Column[*v1.Service] {
	return column.Standard(
		column.Text("Type", "How the service is exposed.", func(s *v1.Service) string { return string(s.Spec.Type) }),
		column.Text("Cluster-IP", "First address of the service inside the cluster.", func(s *v1.Service) string {
			if len(s.Spec.ClusterIPs) == 0 {
				return column.None
			}
			return s.Spec.ClusterIPs[0]
		}),
		column.Text("External-IP", "Addresses or name outside the cluster.", externalAddress),
		column.Text("Port(s)", "Port, node port and protocol.", func(s *v1.Service) string {
			var parts []string
			for _, p := range s.Spec.Ports {
				if p.NodePort > 0 {
					parts = append(parts, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
				} else {
					parts = append(parts, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
				}
			}
			return column.Or(strings.Join(parts, ","), column.None)
		}),
		column.Wide(column.Text("Selector", "Labels of the pods behind the service.", func(s *v1.Service) string { return labels.FormatLabels(s.Spec.Selector) })),
	)
}

func externalAddress(s *v1.Service) string {
	external := strings.Join(s.Spec.ExternalIPs, ",")
	switch s.Spec.Type {
	case v1.ServiceTypeClusterIP, v1.ServiceTypeNodePort:
		return column.Or(external, column.None)
	case v1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case v1.ServiceTypeLoadBalancer:
		var addresses []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if a := column.Or(in.IP, in.Hostname); a != "" {
				addresses = append(addresses, a)
			}
		}
		slices.Sort(addresses)
		addresses = append(slices.Compact(addresses), s.Spec.ExternalIPs...)
		return column.Or(strings.Join(addresses, ","), "<pending>")
	}
	return column.Unknown
}
