// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }

func validateNetworkPolicy(_ context.Context, p *v1.NetworkPolicy) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	r.Selector(path.Child("podSelector"), &p.Spec.PodSelector)
	for i, in := range p.Spec.Ingress {
		at := path.Child("ingress").Index(i)
		policyPorts(r, at.Child("ports"), in.Ports)
		peers(r, at.Child("from"), in.From)
	}
	for i, e := range p.Spec.Egress {
		at := path.Child("egress").Index(i)
		policyPorts(r, at.Child("ports"), e.Ports)
		peers(r, at.Child("to"), e.To)
	}
	types := path.Child("policyTypes")
	if n := len(p.Spec.PolicyTypes); n > 2 {
		r.Invalid(types, p.Spec.PolicyTypes, "may not specify more than two policyTypes")
	}
	for i, t := range p.Spec.PolicyTypes {
		rule.OneOf(r, types.Index(i), t, v1.PolicyTypeIngress, v1.PolicyTypeEgress)
	}
	return r.Errors()
}

func policyPorts(r *rule.Report, path *field.Path, ports []v1.NetworkPolicyPort) {
	for i, p := range ports {
		at := path.Index(i)
		rule.OneOfOptional(r, at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if p.Port != nil {
			r.PortOrName(at.Child("port"), *p.Port)
		}
		if p.EndPort == nil {
			continue
		}
		at = at.Child("endPort")
		r.Port(at, *p.EndPort)
		switch {
		case p.Port == nil:
			r.Invalid(at, *p.EndPort, "may not be specified when `port` is not specified")
		case p.Port.Type == intstr.String:
			r.Invalid(at, *p.EndPort, "may not be specified when `port` is non-numeric")
		case p.Port.IntVal > *p.EndPort:
			r.Invalid(at, *p.EndPort, "must be greater than or equal to `port`")
		}
	}
}

func peers(r *rule.Report, path *field.Path, list []v1.NetworkPolicyPeer) {
	for i, p := range list {
		at := path.Index(i)
		if p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil {
			r.Required(at, false, "must specify a peer")
			continue
		}
		r.Selector(at.Child("podSelector"), p.PodSelector)
		r.Selector(at.Child("namespaceSelector"), p.NamespaceSelector)
		if p.IPBlock != nil {
			r.Forbidden(at, p.PodSelector != nil || p.NamespaceSelector != nil, "may not specify both ipBlock and another peer")
			ipBlock(r, at.Child("ipBlock"), p.IPBlock)
		}
	}
}

// ipBlock reports exceptions that are no part of the block, or all of it.
func ipBlock(r *rule.Report, at *field.Path, b *v1.IPBlock) {
	if !r.Required(at.Child("cidr"), b.CIDR != "", "") {
		return
	}
	r.Add(validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, nil)...)
	block, err := netip.ParsePrefix(b.CIDR)
	for i, text := range b.Except {
		at := at.Child("except").Index(i)
		r.Add(validation.IsValidCIDRForLegacyField(at, text, true, nil)...)
		except, bad := netip.ParsePrefix(text)
		if err == nil && bad == nil && (!block.Contains(except.Addr()) || except.Bits() <= block.Bits()) {
			r.Invalid(at, text, "must be a strict subset of `cidr`")
		}
	}
}

func validateIngressClass(_ context.Context, c *v1.IngressClass) field.ErrorList {
	r := &rule.Report{}
	at := field.NewPath("spec", "controller")
	if len(c.Spec.Controller) > 250 {
		r.Add(field.TooLong(at, c.Spec.Controller, 250))
	}
	r.Add(validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	p := c.Spec.Parameters
	if p == nil {
		return r.Errors()
	}
	at = field.NewPath("spec", "parameters")
	if p.APIGroup != nil {
		r.Invalid(at.Child("apiGroup"), *p.APIGroup, validation.IsDNS1123Subdomain(*p.APIGroup)...)
	}
	r.Required(at.Child("kind"), p.Kind != "", "kind is required")
	r.Required(at.Child("name"), p.Name != "", "name is required")
	if !r.Required(at.Child("scope"), p.Scope != nil, "") {
		return r.Errors()
	}
	rule.OneOf(r, at.Child("scope"), *p.Scope, v1.IngressClassParametersReferenceScopeCluster, v1.IngressClassParametersReferenceScopeNamespace)
	switch *p.Scope {
	case v1.IngressClassParametersReferenceScopeNamespace:
		if r.Required(at.Child("namespace"), p.Namespace != nil, "`parameters.scope` is set to 'Namespace'") {
			r.Invalid(at.Child("namespace"), *p.Namespace, validation.IsDNS1123Label(*p.Namespace)...)
		}
	case v1.IngressClassParametersReferenceScopeCluster:
		r.Forbidden(at.Child("namespace"), p.Namespace != nil, "`parameters.scope` is set to 'Cluster'")
	}
	return r.Errors()
}

func validateIngressClassUpdate(_ context.Context, c, old *v1.IngressClass) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller)
	return r.Errors()
}

// addressName: an IPAddress is called as the address is spelled in its shortest form, so that there is one name per address.
func addressName(name string, _ bool) []string {
	ip, err := netip.ParseAddr(name)
	switch {
	case err != nil || ip.Zone() != "":
		return []string{"must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"}
	case ip.Is4In6():
		return []string{"must not be an IPv4-mapped IPv6 address"}
	case ip.String() != name:
		return []string{"must be in canonical form (" + ip.String() + ")"}
	}
	return nil
}

func validateIPAddress(_ context.Context, a *v1.IPAddress) field.ErrorList {
	r := &rule.Report{}
	at, p := field.NewPath("spec", "parentRef"), a.Spec.ParentRef
	if !r.Required(at, p != nil, "") {
		return r.Errors()
	}
	r.Optional(at.Child("group"), p.Group, validation.IsDNS1123Subdomain)
	segment := func(s string) []string { return pathSegment(s) }
	r.Name(at.Child("resource"), p.Resource, segment)
	r.Name(at.Child("name"), p.Name, segment)
	r.Optional(at.Child("namespace"), p.Namespace, segment)
	return r.Errors()
}

func pathSegment(s string) []string {
	switch {
	case s == "." || s == "..":
		return []string{"may not be '" + s + "'"}
	case strings.ContainsAny(s, "/%"):
		return []string{"may not contain '/' or '%'"}
	}
	return nil
}

func validateIPAddressUpdate(_ context.Context, a, old *v1.IPAddress) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec", "parentRef"), a.Spec.ParentRef, old.Spec.ParentRef)
	return r.Errors()
}

func validateServiceCIDR(_ context.Context, c *v1.ServiceCIDR) field.ErrorList {
	r := &rule.Report{}
	at := field.NewPath("spec", "cidrs")
	if !r.Required(at, len(c.Spec.CIDRs) > 0, "at least one CIDR required") {
		return r.Errors()
	}
	if n := len(c.Spec.CIDRs); n > 2 {
		r.Add(field.TooMany(at, n, 2))
	}
	families := map[bool]bool{}
	for i, text := range c.Spec.CIDRs {
		r.Add(validation.IsValidCIDR(at.Index(i), text)...)
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		if families[p.Addr().Is4()] {
			r.Invalid(at, c.Spec.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")
		}
		families[p.Addr().Is4()] = true
	}
	return r.Errors()
}

// validateServiceCIDRUpdate: a range stays; a second one of the other family may join.
func validateServiceCIDRUpdate(_ context.Context, c, old *v1.ServiceCIDR) field.ErrorList {
	r := &rule.Report{}
	now, was := c.Spec.CIDRs, old.Spec.CIDRs
	if len(was) == 1 && len(now) == 2 {
		now = now[:1]
	}
	if !slices.Equal(now, was) {
		r.Invalid(field.NewPath("spec", "cidrs"), c.Spec.CIDRs, "field is immutable")
	}
	return r.Errors()
}
