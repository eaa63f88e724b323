// SPDX-License-Identifier: Apache-2.0

package core

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// defaultService fills what does not depend on other objects. Addresses, families and node ports are allocated later (package servicealloc).
func defaultService(s *v1.Service) {
	spec := &s.Spec
	if spec.Type == "" {
		spec.Type = v1.ServiceTypeClusterIP
	}
	switch spec.SessionAffinity {
	case "":
		spec.SessionAffinity = v1.ServiceAffinityNone
		spec.SessionAffinityConfig = nil
	case v1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case v1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: new(v1.DefaultClientIPServiceAffinitySeconds)}}
		}
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = v1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.ExternalTrafficPolicy == "" && fromOutside(spec) {
		spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && hasClusterIP(spec) {
		spec.InternalTrafficPolicy = new(v1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == v1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts == nil {
			spec.AllocateLoadBalancerNodePorts = new(true)
		}
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
				in.IPMode = new(v1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// fromOutside tells whether the service is reached from outside the cluster: node ports, a load balancer, external addresses.
func fromOutside(s *v1.ServiceSpec) bool {
	return s.Type == v1.ServiceTypeLoadBalancer || s.Type == v1.ServiceTypeNodePort || s.Type == v1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0
}

// hasClusterIP tells whether a service of that type has a cluster address (which may be None).
func hasClusterIP(s *v1.ServiceSpec) bool {
	return s.Type == v1.ServiceTypeClusterIP || s.Type == v1.ServiceTypeNodePort || s.Type == v1.ServiceTypeLoadBalancer
}
