// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func nodeColumns() []resource.Column[*v1.Node] {
	address := func(kind v1.NodeAddressType) func(*v1.Node) string {
		return func(n *v1.Node) string {
			for _, a := range n.Status.Addresses {
				if a.Type == kind {
					return a.Address
				}
			}
			return column.None
		}
	}
	info := func(of func(*v1.NodeSystemInfo) string) func(*v1.Node) string {
		return func(n *v1.Node) string { return column.Or(of(&n.Status.NodeInfo), column.Unknown) }
	}
	return slices.Concat(
		[]resource.Column[*v1.Node]{
			column.Name[*v1.Node](),
			column.Text("Status", "Whether the node is ready and takes new pods.", nodeStatus),
			column.Text("Roles", "Roles that the node's labels give it.", nodeRoles),
			column.Age[*v1.Node](),
			column.Text("Version", "Version that the node agent reports.", func(n *v1.Node) string { return n.Status.NodeInfo.KubeletVersion }),
		},
		[]resource.Column[*v1.Node]{
			column.Wide(column.Text("Internal-IP", "Address inside the cluster's network.", address(v1.NodeInternalIP))),
			column.Wide(column.Text("External-IP", "Address outside the cluster's network.", address(v1.NodeExternalIP))),
			column.Wide(column.Text("OS-Image", "Operating system.", info(func(i *v1.NodeSystemInfo) string { return i.OSImage }))),
			column.Wide(column.Text("Kernel-Version", "Kernel.", info(func(i *v1.NodeSystemInfo) string { return i.KernelVersion }))),
			column.Wide(column.Text("Container-Runtime", "Container runtime.", info(func(i *v1.NodeSystemInfo) string { return i.ContainerRuntimeVersion }))),
		},
	)
}

func nodeStatus(n *v1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			status = "NotReady"
			if c.Status == v1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *v1.Node) string {
	var roles []string
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return column.Or(strings.Join(slices.Compact(roles), ","), column.None)
}
