// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// kubeletPort may not be exposed by a load balancer: it would lead to the nodes themselves.
const kubeletPort = 10250

func validateService(_ context.Context, s *v1.Service) field.ErrorList {
	r := &rule.Report{}
	path, spec := field.NewPath("spec"), &s.Spec
	headless := spec.ClusterIP == v1.ClusterIPNone
	rule.OneOf(r, path.Child("type"), spec.Type, v1.ServiceTypeClusterIP, v1.ServiceTypeExternalName, v1.ServiceTypeLoadBalancer, v1.ServiceTypeNodePort)
	r.Required(path.Child("ports"), len(spec.Ports) > 0 || headless || spec.Type == v1.ServiceTypeExternalName, "")
	switch spec.Type {
	case v1.ServiceTypeLoadBalancer, v1.ServiceTypeNodePort:
		if headless {
			r.Invalid(path.Child("clusterIPs").Index(0), v1.ClusterIPNone, "may not be set to 'None' for "+string(spec.Type)+" services")
		}
	case v1.ServiceTypeExternalName:
		r.Forbidden(path.Child("clusterIPs"), len(spec.ClusterIPs) > 0, "may not be set for ExternalName services")
		r.Forbidden(path.Child("ipFamilies"), len(spec.IPFamilies) > 0, "may not be set for ExternalName services")
		r.Forbidden(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy != nil, "may not be set for ExternalName services")
		if name := strings.TrimSuffix(spec.ExternalName, "."); r.Required(path.Child("externalName"), name != "", "") {
			r.Invalid(path.Child("externalName"), spec.ExternalName, validation.IsDNS1123Subdomain(name)...)
		}
	}
	servicePorts(r, path.Child("ports"), spec)
	r.Labels(path.Child("selector"), spec.Selector)
	sessionAffinity(r, path, spec)
	clusterIPs(r, path, spec)
	fromOutsideFields(r, path, s)

	if spec.InternalTrafficPolicy != nil {
		rule.OneOf(r, path.Child("internalTrafficPolicy"), *spec.InternalTrafficPolicy, v1.ServiceInternalTrafficPolicyCluster, v1.ServiceInternalTrafficPolicyLocal)
	} else {
		r.Required(path.Child("internalTrafficPolicy"), !hasClusterIP(spec), "")
	}
	rule.OneOfOptional(r, path.Child("trafficDistribution"), spec.TrafficDistribution, v1.ServiceTrafficDistributionPreferClose,
		v1.ServiceTrafficDistributionPreferSameZone, v1.ServiceTrafficDistributionPreferSameNode)
	return r.Errors()
}

func servicePorts(r *rule.Report, path *field.Path, spec *v1.ServiceSpec) {
	type key struct {
		protocol v1.Protocol
		port     int32
	}
	names, ports, nodePorts := map[string]bool{}, map[key]bool{}, map[key]bool{}
	for i := range spec.Ports {
		p, at := &spec.Ports[i], path.Index(i)
		if r.Required(at.Child("name"), p.Name != "" || len(spec.Ports) == 1, "") && p.Name != "" {
			r.Invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name)...)
			if names[p.Name] {
				r.Add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		r.Port(at.Child("port"), p.Port)
		rule.OneOf(r, at.Child("protocol"), p.Protocol, v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP)
		r.PortOrName(at.Child("targetPort"), p.TargetPort)
		if p.AppProtocol != nil {
			r.Invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol)...)
		}
		if spec.Type == v1.ServiceTypeLoadBalancer && p.Port == kubeletPort {
			r.Invalid(at, p.Port, "may not expose port 10250 externally since it is used by kubelet")
		}
		if k := (key{p.Protocol, p.Port}); ports[k] {
			r.Add(field.Duplicate(at, fmt.Sprintf("%d/%s", p.Port, p.Protocol)))
		} else {
			ports[k] = true
		}
		if p.NodePort == 0 {
			continue
		}
		if !mayHaveNodePorts(spec) {
			r.Forbidden(at.Child("nodePort"), true, "may not be used when `type` is '"+string(spec.Type)+"'")
			continue
		}
		r.Port(at.Child("nodePort"), p.NodePort)
		if k := (key{p.Protocol, p.NodePort}); nodePorts[k] {
			r.Add(field.Duplicate(at.Child("nodePort"), p.NodePort))
		} else {
			nodePorts[k] = true
		}
	}
}

func sessionAffinity(r *rule.Report, path *field.Path, spec *v1.ServiceSpec) {
	rule.OneOf(r, path.Child("sessionAffinity"), spec.SessionAffinity, v1.ServiceAffinityClientIP, v1.ServiceAffinityNone)
	at := path.Child("sessionAffinityConfig")
	switch c := spec.SessionAffinityConfig; spec.SessionAffinity {
	case v1.ServiceAffinityNone:
		r.Forbidden(at, c != nil, "must not be set when session affinity is None")
	case v1.ServiceAffinityClientIP:
		if r.Required(at.Child("clientIP", "timeoutSeconds"), c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil,
			"when session affinity type is ClientIP") {
			r.Between(at.Child("clientIP", "timeoutSeconds"), int64(*c.ClientIP.TimeoutSeconds), 1, 86400)
		}
	}
}

// clusterIPs reports addresses that contradict each other. What families the cluster has is servicealloc's to judge.
func clusterIPs(r *rule.Report, path *field.Path, spec *v1.ServiceSpec) {
	at := path.Child("clusterIPs")
	if spec.Type == v1.ServiceTypeExternalName {
		return
	}
	if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
		r.Required(at, false, "")
	}
	if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP {
		r.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`")
	}
	if n := len(spec.ClusterIPs); n > 2 {
		r.Add(field.TooMany(at, n, 2))
	}
	for i, text := range spec.ClusterIPs {
		switch ip, err := netip.ParseAddr(text); {
		case text == v1.ClusterIPNone:
			if len(spec.ClusterIPs) > 1 {
				r.Invalid(at.Index(i), text, "must be the single value when 'None'")
			}
		case err != nil:
			r.Invalid(at.Index(i), text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
		case ip.String() != text:
			r.Invalid(at.Index(i), text, "must be in canonical form ("+ip.String()+")")
		}
	}
}

// fromOutsideFields are about traffic that comes from outside the cluster.
func fromOutsideFields(r *rule.Report, path *field.Path, s *v1.Service) {
	spec := &s.Spec
	lb := spec.Type == v1.ServiceTypeLoadBalancer
	for i, text := range spec.ExternalIPs {
		at := path.Child("externalIPs").Index(i)
		r.Add(validation.IsValidIPForLegacyField(at, text, true, nil)...)
		NotSpecial(r, at, text)
	}
	ranges, at := spec.LoadBalancerSourceRanges, path.Child("loadBalancerSourceRanges")
	if text, ok := s.Annotations[v1.AnnotationLoadBalancerSourceRangesKey]; ok && len(ranges) == 0 {
		at = field.NewPath("metadata", "annotations").Key(v1.AnnotationLoadBalancerSourceRangesKey)
		r.Forbidden(at, !lb && strings.TrimSpace(text) != "", "may only be used when `type` is 'LoadBalancer'")
		if text = strings.TrimSpace(text); text != "" {
			ranges = strings.Split(text, ",")
		}
	} else {
		r.Forbidden(at, !lb && len(ranges) > 0, "may only be used when `type` is 'LoadBalancer'")
	}
	for i, text := range ranges {
		r.Add(validation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(text), false, nil)...)
	}
	if lb {
		r.Required(path.Child("allocateLoadBalancerNodePorts"), spec.AllocateLoadBalancerNodePorts != nil, "")
	}
	r.Forbidden(path.Child("allocateLoadBalancerNodePorts"), !lb && spec.AllocateLoadBalancerNodePorts != nil, "may only be used when `type` is 'LoadBalancer'")
	r.Forbidden(path.Child("loadBalancerClass"), !lb && spec.LoadBalancerClass != nil, "may only be used when `type` is 'LoadBalancer'")
	if c := spec.LoadBalancerClass; lb && c != nil {
		r.Invalid(path.Child("loadBalancerClass"), *c, validation.IsQualifiedName(*c)...)
	}
	at = path.Child("externalTrafficPolicy")
	switch p := spec.ExternalTrafficPolicy; {
	case fromOutside(spec):
		rule.OneOf(r, at, p, v1.ServiceExternalTrafficPolicyCluster, v1.ServiceExternalTrafficPolicyLocal)
	case p != "":
		r.Invalid(at, p, "may only be set for externally-accessible services")
	}
	at = path.Child("healthCheckNodePort")
	r.NotNegative(at, int64(spec.HealthCheckNodePort))
	if !needsHealthCheckPort(spec) && spec.HealthCheckNodePort != 0 {
		r.Invalid(at, spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	}
}

// NotSpecial reports addresses that no packet from elsewhere can have as its destination. As an endpoint, such an address would let its author reach
// what listens on the node only.
func NotSpecial(r *rule.Report, at *field.Path, text string) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return // said already
	}
	for _, c := range []struct {
		is   bool
		what string
	}{
		{ip.IsUnspecified(), "may not be unspecified (0.0.0.0 or ::)"},
		{ip.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{ip.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{ip.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/16)"},
	} {
		if c.is {
			r.Invalid(at, text, c.what)
		}
	}
}

// validateServiceUpdate: a service's first address and family stay as long as it has any; a second one may come and go.
func validateServiceUpdate(_ context.Context, s, old *v1.Service) field.ErrorList {
	r := &rule.Report{}
	path, spec, was := field.NewPath("spec"), &s.Spec, &old.Spec
	if hasClusterIP(spec) && hasClusterIP(was) && len(was.ClusterIPs) > 0 {
		switch {
		case len(spec.ClusterIPs) == 0:
			r.Invalid(path.Child("clusterIPs").Index(0), "", "primary clusterIP can not be unset")
		case spec.ClusterIPs[0] != was.ClusterIPs[0]:
			r.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs, "may not change once set")
		case len(spec.ClusterIPs) > 1 && len(was.ClusterIPs) > 1 && spec.ClusterIPs[1] != was.ClusterIPs[1]:
			r.Invalid(path.Child("clusterIPs").Index(1), spec.ClusterIPs, "may not change once set")
		case len(spec.ClusterIPs) < len(was.ClusterIPs) && (spec.IPFamilyPolicy == nil || *spec.IPFamilyPolicy != v1.IPFamilyPolicySingleStack):
			r.Invalid(path.Child("clusterIPs").Index(1), spec.ClusterIPs, "`ipFamilyPolicy` must be set to 'SingleStack' when releasing the secondary clusterIP")
		}
	}
	if hasClusterIP(spec) && hasClusterIP(was) && len(was.IPFamilies) > 0 && len(spec.IPFamilies) > 0 && spec.ClusterIP != v1.ClusterIPNone {
		if spec.IPFamilies[0] != was.IPFamilies[0] {
			r.Invalid(path.Child("ipFamilies").Index(0), spec.IPFamilies, "may not change once set")
		}
		if len(spec.IPFamilies) > 1 && len(was.IPFamilies) > 1 && spec.IPFamilies[1] != was.IPFamilies[1] {
			r.Invalid(path.Child("ipFamilies").Index(1), spec.IPFamilies, "may not change once set")
		}
	}
	if spec.Type == v1.ServiceTypeLoadBalancer && was.Type == v1.ServiceTypeLoadBalancer && !same(spec.LoadBalancerClass, was.LoadBalancerClass) {
		r.Invalid(path.Child("loadBalancerClass"), spec.LoadBalancerClass, "may not change once set")
	}
	if needsHealthCheckPort(spec) && needsHealthCheckPort(was) && spec.HealthCheckNodePort != was.HealthCheckNodePort && was.HealthCheckNodePort != 0 {
		r.Invalid(path.Child("healthCheckNodePort"), spec.HealthCheckNodePort, "field is immutable")
	}
	return r.Errors()
}

func validateServiceStatus(_ context.Context, s, _ *v1.Service) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("status", "loadBalancer", "ingress")
	if s.Spec.Type != v1.ServiceTypeLoadBalancer {
		r.Forbidden(path, len(s.Status.LoadBalancer.Ingress) > 0, "may only be used when `spec.type` is 'LoadBalancer'")
		return r.Errors()
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		at := path.Index(i)
		if in.IP != "" {
			r.Add(validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, nil)...)
		}
		r.Forbidden(at.Child("ipMode"), in.IP == "" && in.IPMode != nil, "may not be specified when `ip` is not set")
		rule.OneOfOptional(r, at.Child("ipMode"), in.IPMode, v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy)
		if in.IP != "" && in.IPMode == nil {
			r.Required(at.Child("ipMode"), false, "must be specified when `ip` is set")
		}
		if in.Hostname != "" {
			r.Invalid(at.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname)...)
			if _, err := netip.ParseAddr(in.Hostname); err == nil {
				r.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
	return r.Errors()
}

func serviceWarnings(_ context.Context, s, old *v1.Service) []string {
	var out []string
	if len(s.Spec.ExternalIPs) > 0 && (old == nil || !slices.Equal(s.Spec.ExternalIPs, old.Spec.ExternalIPs)) {
		out = append(out, "spec.externalIPs takes over traffic to any address inside the cluster; prefer type LoadBalancer")
	}
	if s.Spec.ClusterIP == v1.ClusterIPNone {
		if s.Spec.LoadBalancerIP != "" {
			out = append(out, "spec.loadBalancerIP is ignored for headless services")
		}
		if s.Spec.SessionAffinity != v1.ServiceAffinityNone {
			out = append(out, "spec.SessionAffinity is ignored for headless services")
		}
	}
	return out
}
