// SPDX-License-Identifier: Apache-2.0

package networking

import (
	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/networking/v1"
)

// defaultNetworkPolicy makes the directions that the rules imply explicit: ingress always, egress where there is an egress rule.
func defaultNetworkPolicy(p *v1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []v1.PolicyType{v1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, v1.PolicyTypeEgress)
		}
	}
	for i := range p.Spec.Ingress {
		defaultPorts(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		defaultPorts(p.Spec.Egress[i].Ports)
	}
}

func defaultPorts(ports []v1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			ports[i].Protocol = new(corev1.ProtocolTCP)
		}
	}
}

func defaultIngressClass(c *v1.IngressClass) {
	if c.Spec.Parameters != nil && c.Spec.Parameters.Scope == nil {
		c.Spec.Parameters.Scope = new(v1.IngressClassParametersReferenceScopeCluster)
	}
}
