// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ports gives the service's ports their node ports and, where it needs one, the port for load balancers' health checks. One port number serves a
// service for several protocols, but never two services.
func (c *claim) ports(ctx context.Context, old *corev1.Service) field.ErrorList {
	s := c.service
	mine := map[int32]bool{} // node ports that need no claim: the service had them, or an entry before claimed them
	if old != nil && mayHaveNodePorts(old) {
		for _, p := range old.Spec.Ports {
			mine[p.NodePort] = true
		}
	}
	if mayHaveNodePorts(s) {
		if errs := c.nodePorts(ctx, mine); len(errs) > 0 {
			return errs
		}
	}
	if !needsHealthCheckPort(s) {
		return nil
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	if old != nil && needsHealthCheckPort(old) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 {
		if old != nil && needsHealthCheckPort(old) && n == old.Spec.HealthCheckNodePort {
			return nil
		}
		if err := c.takePort(ctx, n); err != nil {
			return field.ErrorList{portError(path, n, err)}
		}
		return nil
	}
	n, err := c.takeAnyPort(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	s.Spec.HealthCheckNodePort = n
	return nil
}

// nodePorts first claims what the client asks for, so that a port chosen for another entry cannot be in its way.
func (c *claim) nodePorts(ctx context.Context, mine map[int32]bool) field.ErrorList {
	s := c.service
	path := field.NewPath("spec", "ports")
	byPort := map[int32]int32{} // service port -> node port of an entry with another protocol
	used := map[string]bool{}   // protocol/node port
	key := func(p corev1.Protocol, n int32) string { return fmt.Sprintf("%s/%d", p, n) }
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 {
			continue
		}
		if !mine[p.NodePort] {
			if err := c.takePort(ctx, p.NodePort); err != nil {
				return field.ErrorList{portError(path.Index(i).Child("nodePort"), p.NodePort, err)}
			}
			mine[p.NodePort] = true
		}
		used[key(p.Protocol, p.NodePort)] = true
		if _, ok := byPort[p.Port]; !ok {
			byPort[p.Port] = p.NodePort
		}
	}
	if !givenNodePorts(s) {
		return nil
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if n, ok := byPort[p.Port]; ok && !used[key(p.Protocol, n)] {
			p.NodePort = n
		} else {
			n, err := c.takeAnyPort(ctx)
			if err != nil {
				return field.ErrorList{field.InternalError(path.Index(i).Child("nodePort"), err)}
			}
			p.NodePort = n
			byPort[p.Port] = n
		}
		used[key(p.Protocol, p.NodePort)] = true
	}
	return nil
}

// mayHaveNodePorts: the type allows node ports. givenNodePorts: it also gets them unasked.
func mayHaveNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func givenNodePorts(s *corev1.Service) bool {
	no := s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.AllocateLoadBalancerNodePorts != nil && !*s.Spec.AllocateLoadBalancerNodePorts
	return mayHaveNodePorts(s) && !no
}

func needsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// portsOf are the ports that s holds claims on, each once.
func portsOf(s *corev1.Service) []int32 {
	var out []int32
	seen := map[int32]bool{0: true}
	add := func(n int32) {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	if mayHaveNodePorts(s) {
		for _, p := range s.Spec.Ports {
			add(p.NodePort)
		}
	}
	if needsHealthCheckPort(s) {
		add(s.Spec.HealthCheckNodePort)
	}
	return out
}
