// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// Labels and annotations that reach the tables.
const (
	labelProxyName       = "service.kubernetes.io/service-proxy-name"
	labelExcludeBalancer = "node.kubernetes.io/exclude-from-external-load-balancers"
	annotationPrefix     = "service.fairlead.io/"
	nodeAnnotations      = "fairlead.io/"
	annotationTopology   = "service.kubernetes.io/topology-mode"
)

func serviceName(s *tables.Service) tables.Name     { return s.Name }
func sliceName(s *tables.EndpointSlice) tables.Name { return s.Name }

// Service converts a Service to its row.
func Service(s *corev1.Service) (*tables.Service, bool) {
	r := &tables.Service{
		Name:            tables.Name{Namespace: tables.Intern(s.Namespace), Name: s.Name},
		UID:             string(s.UID),
		PublishNotReady: s.Spec.PublishNotReadyAddresses,
		ProxyName:       s.Labels[labelProxyName],
		Annotations:     selected(s.Annotations, annotationPrefix, annotationTopology),
	}
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		r.Type = tables.NodePort
	case corev1.ServiceTypeLoadBalancer:
		r.Type = tables.LoadBalancer
	case corev1.ServiceTypeExternalName:
		r.Type = tables.ExternalName
		r.ExternalName = s.Spec.ExternalName
	}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 && s.Spec.ClusterIP != "" {
		ips = []string{s.Spec.ClusterIP}
	}
	for _, ip := range ips {
		if ip == corev1.ClusterIPNone {
			r.Headless = true
		} else if a, ok := addr(ip); ok {
			r.ClusterIPs = append(r.ClusterIPs, a)
		}
	}
	for _, ip := range s.Spec.ExternalIPs {
		if a, ok := addr(ip); ok {
			r.ExternalIPs = append(r.ExternalIPs, a)
		}
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		if a, ok := addr(in.IP); ok {
			r.Ingress = append(r.Ingress, tables.IngressIP{Addr: a, Proxy: in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy})
		}
	}
	for _, p := range s.Spec.Ports {
		sp := tables.ServicePort{Name: tables.Intern(p.Name), Protocol: protocol(p.Protocol), Port: port(p.Port), NodePort: port(p.NodePort)}
		if p.AppProtocol != nil {
			sp.AppProtocol = tables.Intern(*p.AppProtocol)
		}
		r.Ports = append(r.Ports, sp)
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		r.Affinity = 3 * time.Hour // the API's default
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			r.Affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		r.ExternalPolicy = tables.PolicyLocal
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		r.InternalPolicy = tables.PolicyLocal
	}
	r.HealthCheckNodePort = port(s.Spec.HealthCheckNodePort)
	ranges := s.Spec.LoadBalancerSourceRanges
	if a := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; len(ranges) == 0 && strings.TrimSpace(a) != "" {
		ranges = strings.Split(a, ",")
	}
	for _, cidr := range ranges {
		if p, err := netip.ParsePrefix(strings.TrimSpace(cidr)); err == nil {
			r.SourceRanges = append(r.SourceRanges, p.Masked())
		}
	}
	if s.Spec.TrafficDistribution != nil {
		r.TrafficDistribution = tables.Intern(*s.Spec.TrafficDistribution)
	}
	if s.Spec.LoadBalancerClass != nil {
		r.LoadBalancerClass = tables.Intern(*s.Spec.LoadBalancerClass)
	}
	return r, true
}

// EndpointSlice converts an EndpointSlice to its row; none for address type FQDN. Only an endpoint's first address counts (EndpointSlice API).
func EndpointSlice(s *discoveryv1.EndpointSlice) (*tables.EndpointSlice, bool) {
	if s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6 {
		return nil, false
	}
	ns := tables.Intern(s.Namespace)
	r := &tables.EndpointSlice{
		Name:        tables.Name{Namespace: ns, Name: s.Name},
		Service:     tables.Intern(s.Labels[discoveryv1.LabelServiceName]),
		IPv6:        s.AddressType == discoveryv1.AddressTypeIPv6,
		Annotations: selected(s.Annotations, annotationPrefix, ""),
	}
	for _, p := range s.Ports {
		ep := tables.EndpointPort{Protocol: tables.TCP}
		if p.Name != nil {
			ep.Name = tables.Intern(*p.Name)
		}
		if p.Protocol != nil {
			ep.Protocol = protocol(*p.Protocol)
		}
		if p.Port != nil {
			ep.Port = port(*p.Port)
		}
		if p.AppProtocol != nil {
			ep.AppProtocol = tables.Intern(*p.AppProtocol)
		}
		r.Ports = append(r.Ports, ep)
	}
	r.Endpoints = make([]tables.Endpoint, 0, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		a, ok := addr(e.Addresses[0])
		if !ok {
			continue
		}
		re := tables.Endpoint{Addr: a}
		if e.Hostname != nil {
			re.Hostname = *e.Hostname
		}
		if e.NodeName != nil {
			re.NodeName = tables.Intern(*e.NodeName)
		}
		if e.Zone != nil {
			re.Zone = tables.Intern(*e.Zone)
		}
		ready := e.Conditions.Ready == nil || *e.Conditions.Ready
		if ready {
			re.Conditions |= tables.Ready
		}
		// A nil serving means the same as ready (EndpointSlice API).
		if e.Conditions.Serving == nil && ready || e.Conditions.Serving != nil && *e.Conditions.Serving {
			re.Conditions |= tables.Serving
		}
		if e.Conditions.Terminating != nil && *e.Conditions.Terminating {
			re.Conditions |= tables.Terminating
		}
		if e.Hints != nil {
			for _, z := range e.Hints.ForZones {
				re.ForZones = append(re.ForZones, tables.Intern(z.Name))
			}
			for _, n := range e.Hints.ForNodes {
				re.ForNodes = append(re.ForNodes, tables.Intern(n.Name))
			}
		}
		if t := e.TargetRef; t != nil {
			re.Target = tables.ObjectRef{Kind: tables.Intern(t.Kind), Namespace: tables.Intern(t.Namespace), Name: t.Name, UID: string(t.UID)}
		}
		r.Endpoints = append(r.Endpoints, re)
	}
	return r, true
}

// Node converts a Node to its row.
func Node(n *corev1.Node) (*tables.Node, bool) {
	r := &tables.Node{
		Name:        n.Name,
		Zone:        tables.Intern(n.Labels[corev1.LabelTopologyZone]),
		Region:      tables.Intern(n.Labels[corev1.LabelTopologyRegion]),
		Annotations: selected(n.Annotations, nodeAnnotations, ""),
	}
	_, r.ExcludeFromLB = n.Labels[labelExcludeBalancer]
	for _, a := range n.Status.Addresses {
		ip, ok := addr(a.Address)
		switch {
		case !ok:
		case a.Type == corev1.NodeInternalIP && !slices.Contains(r.InternalIPs, ip):
			r.InternalIPs = append(r.InternalIPs, ip)
		case a.Type == corev1.NodeExternalIP && !slices.Contains(r.ExternalIPs, ip):
			r.ExternalIPs = append(r.ExternalIPs, ip)
		}
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil {
			r.PodCIDRs = append(r.PodCIDRs, p.Masked())
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			r.Ready = c.Status == corev1.ConditionTrue
		}
	}
	return r, true
}

func addr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a.Unmap().WithZone(""), err == nil
}

func protocol(p corev1.Protocol) tables.Protocol {
	switch p {
	case corev1.ProtocolUDP:
		return tables.UDP
	case corev1.ProtocolSCTP:
		return tables.SCTP
	case corev1.ProtocolTCP, "":
		return tables.TCP
	}
	return 0 // not servable; the load balancer says so
}

// port converts a port number; what is out of range becomes 0, "none".
func port(p int32) uint16 {
	if p < 0 || p > 65535 {
		return 0
	}
	return uint16(p)
}

// selected returns the annotations below prefix, and the one named also; nil if there are none.
func selected(all map[string]string, prefix, also string) map[string]string {
	var out map[string]string
	for k, v := range all {
		if strings.HasPrefix(k, prefix) || also != "" && k == also {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
