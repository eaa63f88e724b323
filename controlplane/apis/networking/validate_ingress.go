// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"context"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// classAnnotation is how ingresses named their class before there was a field.
const classAnnotation = "kubernetes.io/ingress.class"

func validateIngress(_ context.Context, i *v1.Ingress) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &i.Spec
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		r.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if s.DefaultBackend != nil {
		backend(r, path.Child("defaultBackend"), s.DefaultBackend)
	}
	for n := range s.Rules {
		ingressRule(r, path.Child("rules").Index(n), &s.Rules[n])
	}
	for n, t := range s.TLS {
		at := path.Child("tls").Index(n)
		for m, host := range t.Hosts {
			hostname(r, at.Child("hosts").Index(m), host)
		}
		r.Optional(at.Child("secretName"), t.SecretName, subdomain)
	}
	if c := s.IngressClassName; c != nil {
		r.Invalid(path.Child("ingressClassName"), *c, subdomain(*c)...)
		if a, ok := i.Annotations[classAnnotation]; ok && i.ResourceVersion == "" && a != *c {
			r.Invalid(field.NewPath("metadata", "annotations").Key(classAnnotation), a, "must match `ingressClassName` when both are specified")
		}
	}
	return r.Errors()
}

// hostname: a DNS name whose first label may be a star.
func hostname(r *rule.Report, at *field.Path, host string) {
	if strings.Contains(host, "*") {
		r.Invalid(at, host, validation.IsWildcardDNS1123Subdomain(host)...)
		return
	}
	r.Invalid(at, host, validation.IsDNS1123Subdomain(host)...)
}

func ingressRule(r *rule.Report, path *field.Path, x *v1.IngressRule) {
	if x.Host != "" {
		if _, err := netip.ParseAddr(x.Host); err == nil {
			r.Invalid(path.Child("host"), x.Host, "must be a DNS name, not an IP address")
		}
		hostname(r, path.Child("host"), x.Host)
	}
	if x.HTTP == nil {
		return
	}
	at := path.Child("http", "paths")
	r.Required(at, len(x.HTTP.Paths) > 0, "")
	for i := range x.HTTP.Paths {
		p, at := &x.HTTP.Paths[i], at.Index(i)
		if r.Required(at.Child("pathType"), p.PathType != nil, "pathType must be specified") {
			rule.OneOf(r, at.Child("pathType"), *p.PathType, v1.PathTypeExact, v1.PathTypePrefix, v1.PathTypeImplementationSpecific)
			urlPath(r, at.Child("path"), p.Path, *p.PathType)
		}
		backend(r, at.Child("backend"), &p.Backend)
	}
}

// urlPath reports paths that no request can have after clean-up, or that controllers read differently.
func urlPath(r *rule.Report, at *field.Path, p string, kind v1.PathType) {
	if kind == v1.PathTypeImplementationSpecific {
		if p != "" && !strings.HasPrefix(p, "/") {
			r.Invalid(at, p, "must be an absolute path")
		}
		return
	}
	if !strings.HasPrefix(p, "/") {
		r.Invalid(at, p, "must be an absolute path")
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(p, bad) {
			r.Invalid(at, p, "must not contain '"+bad+"'")
		}
	}
	for _, bad := range []string{"/..", "/."} {
		if strings.HasSuffix(p, bad) {
			r.Invalid(at, p, "cannot end with '"+bad+"'")
		}
	}
}

func backend(r *rule.Report, at *field.Path, b *v1.IngressBackend) {
	switch {
	case b.Service != nil && b.Resource != nil:
		r.Invalid(at, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		at := at.Child("resource")
		if b.Resource.APIGroup != nil {
			r.Invalid(at.Child("apiGroup"), *b.Resource.APIGroup, validation.IsDNS1123Subdomain(*b.Resource.APIGroup)...)
		}
		r.Name(at.Child("kind"), b.Resource.Kind, pathSegment)
		r.Name(at.Child("name"), b.Resource.Name, pathSegment)
	case b.Service != nil:
		at := at.Child("service")
		r.Name(at.Child("name"), b.Service.Name, validation.IsDNS1035Label)
		at = at.Child("port")
		switch p := b.Service.Port; {
		case p.Name != "" && p.Number != 0:
			r.Invalid(at, "", "cannot set both port name & port number")
		case p.Name != "":
			r.Invalid(at.Child("name"), p.Name, validation.IsValidPortName(p.Name)...)
		case p.Number != 0:
			r.Port(at.Child("number"), p.Number)
		default:
			r.Required(at, false, "port name or number is required")
		}
	default:
		r.Invalid(at, "", "resource or service backend is required")
	}
}

func validateIngressStatus(_ context.Context, i, _ *v1.Ingress) field.ErrorList {
	r := &rule.Report{}
	for n, in := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if in.IP != "" {
			r.Add(validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, nil)...)
		}
		if in.Hostname != "" {
			r.Invalid(at.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname)...)
			if _, err := netip.ParseAddr(in.Hostname); err == nil {
				r.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
		for m, p := range in.Ports {
			at := at.Child("ports").Index(m)
			r.Port(at.Child("port"), p.Port)
			rule.OneOf(r, at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
			if p.Error != nil {
				r.Invalid(at.Child("error"), *p.Error, validation.IsQualifiedName(*p.Error)...)
			}
		}
	}
	return r.Errors()
}

func ingressWarnings(_ context.Context, i, old *v1.Ingress) []string {
	if _, ok := i.Annotations[classAnnotation]; ok && old == nil {
		return []string{`annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead`}
	}
	return nil
}
