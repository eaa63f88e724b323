// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// FitService makes what a client sends consistent before anything is allocated or validated: an update that leaves out what the server gave keeps
// it, the older and the newer spelling of the addresses agree, and fields of a former type go. Old is nil on create. Idempotent.
func FitService(s, old *v1.Service) {
	if old != nil {
		keepAllocated(s, old)
	}
	normalizeClusterIPs(s, old)
	if old != nil {
		dropFieldsOfOldType(s, old)
	}
}

// keepAllocated serves clients that replace a service without having read it.
func keepAllocated(s, old *v1.Service) {
	spec, was := &s.Spec, &old.Spec
	if hasClusterIP(spec) && hasClusterIP(was) {
		if spec.ClusterIP == "" {
			spec.ClusterIP = was.ClusterIP
		}
		if len(spec.ClusterIPs) == 0 && spec.ClusterIP == was.ClusterIP {
			spec.ClusterIPs = slices.Clone(was.ClusterIPs)
		}
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = was.IPFamilyPolicy
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = slices.Clone(was.IPFamilies)
		}
	}
	if mayHaveNodePorts(spec) && mayHaveNodePorts(was) {
		type portKey struct {
			protocol v1.Protocol
			port     int32
		}
		had := map[portKey]int32{}
		for _, p := range was.Ports {
			had[portKey{p.Protocol, p.Port}] = p.NodePort
		}
		used := map[int32]bool{}
		for _, p := range spec.Ports {
			used[p.NodePort] = true
		}
		for i := range spec.Ports {
			p := &spec.Ports[i]
			if n := had[portKey{p.Protocol, p.Port}]; p.NodePort == 0 && n != 0 && !used[n] {
				p.NodePort = n
			}
		}
	}
	if needsHealthCheckPort(spec) && needsHealthCheckPort(was) && spec.HealthCheckNodePort == 0 {
		spec.HealthCheckNodePort = was.HealthCheckNodePort
	}
}

// normalizeClusterIPs makes clusterIP the first of clusterIPs for clients that know only the older field: such a client sets, changes or clears
// clusterIP and leaves clusterIPs as it read it. What a client changes in both is left for validation to judge. Old is nil on create.
func normalizeClusterIPs(s, old *v1.Service) {
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
	case spec.ClusterIP == "" && untouched: // cleared, where keepAllocated did not apply
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
	if mayHaveNodePorts(was) && !mayHaveNodePorts(spec) && sameNodePorts(spec, was) {
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

func mayHaveNodePorts(s *v1.ServiceSpec) bool {
	return s.Type == v1.ServiceTypeNodePort || s.Type == v1.ServiceTypeLoadBalancer
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
