// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/core"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// How much one slice can hold.
const (
	maxEndpoints, maxAddresses, maxPorts = 1000, 100, 20000
	maxZoneHints, maxNodeHints           = 8, 8
)

func validateEndpointSlice(_ context.Context, s *v1.EndpointSlice) field.ErrorList {
	r := &rule.Report{}
	rule.OneOf(r, field.NewPath("addressType"), s.AddressType, v1.AddressTypeIPv4, v1.AddressTypeIPv6, v1.AddressTypeFQDN)
	at := field.NewPath("endpoints")
	if n := len(s.Endpoints); n > maxEndpoints {
		r.Add(field.TooMany(at, n, maxEndpoints))
	}
	for i := range s.Endpoints {
		endpoint(r, at.Index(i), &s.Endpoints[i], s.AddressType)
	}
	ports(r, field.NewPath("ports"), s.Ports)
	return r.Errors()
}

func endpoint(r *rule.Report, path *field.Path, e *v1.Endpoint, kind v1.AddressType) {
	at := path.Child("addresses")
	r.Required(at, len(e.Addresses) > 0, "must contain at least 1 address")
	if n := len(e.Addresses); n > maxAddresses {
		r.Add(field.TooMany(at, n, maxAddresses))
	}
	for i, text := range e.Addresses {
		at := at.Index(i)
		if kind == v1.AddressTypeFQDN {
			r.Add(validation.IsFullyQualifiedDomainName(at, text)...)
			continue
		}
		ip, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			r.Invalid(at, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
		case kind == v1.AddressTypeIPv4 && !ip.Is4():
			r.Invalid(at, text, "must be an IPv4 address")
		case kind == v1.AddressTypeIPv6 && !ip.Is6():
			r.Invalid(at, text, "must be an IPv6 address")
		default:
			core.NotSpecial(r, at, text)
		}
	}
	if e.NodeName != nil {
		r.Invalid(path.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain(*e.NodeName, false)...)
	}
	r.Labels(path.Child("deprecatedTopology"), e.DeprecatedTopology)
	if e.Hostname != nil {
		r.Invalid(path.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname)...)
	}
	if e.Hints == nil {
		return
	}
	hints := path.Child("hints")
	if n := len(e.Hints.ForZones); n > maxZoneHints {
		r.Add(field.TooMany(hints.Child("forZones"), n, maxZoneHints))
	}
	seen := map[string]bool{}
	for i, z := range e.Hints.ForZones {
		at := hints.Child("forZones").Index(i).Child("name")
		if seen[z.Name] {
			r.Add(field.Duplicate(at, z.Name))
		}
		seen[z.Name] = true
		r.Invalid(at, z.Name, validation.IsValidLabelValue(z.Name)...)
	}
	if n := len(e.Hints.ForNodes); n > maxNodeHints {
		r.Add(field.TooMany(hints.Child("forNodes"), n, maxNodeHints))
	}
	nodes := map[string]bool{}
	for i, n := range e.Hints.ForNodes {
		at := hints.Child("forNodes").Index(i).Child("name")
		if nodes[n.Name] {
			r.Add(field.Duplicate(at, n.Name))
		}
		nodes[n.Name] = true
		r.Invalid(at, n.Name, apivalidation.NameIsDNSSubdomain(n.Name, false)...)
	}
}

func ports(r *rule.Report, path *field.Path, list []v1.EndpointPort) {
	if n := len(list); n > maxPorts {
		r.Add(field.TooMany(path, n, maxPorts))
	}
	names := map[string]bool{}
	for i, p := range list {
		at := path.Index(i)
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		r.Optional(at.Child("name"), name, validation.IsDNS1123Label)
		if names[name] {
			r.Add(field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
		if r.Required(at.Child("protocol"), p.Protocol != nil, "") {
			rule.OneOf(r, at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		if p.Port != nil {
			r.Port(at.Child("port"), *p.Port)
		}
		if p.AppProtocol != nil {
			r.Invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol)...)
		}
	}
}

func validateEndpointSliceUpdate(_ context.Context, s, old *v1.EndpointSlice) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("addressType"), s.AddressType, old.AddressType)
	return r.Errors()
}
