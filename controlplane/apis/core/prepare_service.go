// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// NormalizeClusterIPs makes clusterIP the first of clusterIPs for clients that know only the older field: such a client sets, changes or clears
// clusterIP and leaves clusterIPs as it read it. What a client changes in both is left for validation to judge. Old is nil on create.
func NormalizeClusterIPs(s, old *v1.Service) {
	spec := &s.Spec
	if old == nil {
		if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
		return
	}
	untouched := slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case spec.ClusterIP == old.Spec.ClusterIP:
	case spec.ClusterIP == "" && untouched: // cleared
		spec.ClusterIPs = nil
	case old.Spec.ClusterIP == "" && len(spec.ClusterIPs) == 0: // set
		spec.ClusterIPs = []string{spec.ClusterIP}
	case untouched && len(spec.ClusterIPs) > 0: // changed
		spec.ClusterIPs = append([]string{spec.ClusterIP}, spec.ClusterIPs[1:]...)
	}
}

// dropFieldsOfOldType clears what only the old type had and the client merely sent back: to become an ExternalName, for example, a service
// need not name every field that it loses. What the client changed itself stays, for validation to refuse.
func dropFieldsOfOldType(s, old *v1.Service) {
	spec, was := &s.Spec, &old.Spec
	if spec.Type == was.Type {
		return
	}
	if hasClusterIP(was) && !hasClusterIP(spec) {
		if spec.ClusterIP == was.ClusterIP && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		if same(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if hasNodePorts(was) && !hasNodePorts(spec) && sameNodePorts(spec, was) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheckPort(was) && !needsHealthCheckPort(spec) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if was.Type == v1.ServiceTypeLoadBalancer {
		if same(spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if same(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if fromOutside(was) && !fromOutside(spec) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if hasClusterIP(was) && !hasClusterIP(spec) && same(spec.InternalTrafficPolicy, was.InternalTrafficPolicy) {
		spec.InternalTrafficPolicy = nil
	}
}

func hasNodePorts(s *v1.ServiceSpec) bool {
	if s.Type == v1.ServiceTypeLoadBalancer {
		return s.AllocateLoadBalancerNodePorts == nil || *s.AllocateLoadBalancerNodePorts
	}
	return s.Type == v1.ServiceTypeNodePort
}

// needsHealthCheckPort: load balancers ask nodes which of them have an endpoint, when only those may take traffic.
func needsHealthCheckPort(s *v1.ServiceSpec) bool {
	return s.Type == v1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
}

// sameNodePorts tells whether the client asks for no node port that the service did not have before.
func sameNodePorts(spec, was *v1.ServiceSpec) bool {
	had := map[int32]bool{}
	for _, p := range was.Ports {
		had[p.NodePort] = true
	}
	for _, p := range spec.Ports {
		if p.NodePort != 0 && !had[p.NodePort] {
			return false
		}
	}
	return true
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
