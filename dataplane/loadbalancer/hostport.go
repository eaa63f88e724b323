// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// hostPortsNamespace stands where a service's namespace would: no Kubernetes namespace can have this name.
const hostPortsNamespace = "(hostport)"

// HostPortsName names the host ports of the pod with this id (tables.LocalPod.ID) among the services.
func HostPortsName(id string) tables.Name {
	return tables.Name{Namespace: hostPortsNamespace, Name: id}
}

// HostPortsPod returns the id of the pod whose host ports name stands for; ok is false for a Service's name.
func HostPortsPod(name tables.Name) (id string, ok bool) {
	return name.Name, name.Namespace == hostPortsNamespace
}

// hostPorts computes what a pod's published ports look like: services whose only backend is the pod.
func hostPorts(pod *tables.LocalPod) serviceSpec {
	var spec serviceSpec
	for _, hp := range pod.HostPorts {
		for _, ip := range pod.IPs {
			ip = ip.Unmap()
			at := hp.HostIP.Unmap()
			if !at.IsValid() || at.IsUnspecified() {
				at = netip.IPv4Unspecified()
				if ip.Is6() {
					at = netip.IPv6Unspecified()
				}
			}
			if hp.HostPort == 0 || hp.PodPort == 0 || at.Is6() != ip.Is6() {
				continue
			}
			spec.ports = append(spec.ports, portSpec{
				proto: hp.Protocol, port: hp.HostPort, v6: ip.Is6(), name: "hostport",
				frontends: []frontend{{key: serviceKey(at, hp.HostPort, hp.Protocol), kind: "HostPort", flags: flagExternal}},
				endpoints: []endpoint{{addr: ip, port: hp.PodPort, flags: backendCluster | backendLocalSet | backendOnNode | backendLive, weight: 1}},
				hasRemote: true,
			})
		}
	}
	return spec
}
