// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"math"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }

// ValidateTemplate reports what is wrong with a pod template.
func ValidateTemplate(r *rule.Report, path *field.Path, t *v1.PodTemplateSpec) {
	meta := path.Child("metadata")
	r.Labels(meta.Child("labels"), t.Labels)
	r.Add(apivalidation.ValidateAnnotations(t.Annotations, meta.Child("annotations"))...)
	Validate(r, path.Child("spec"), &t.Spec, &t.ObjectMeta)
	r.Forbidden(path.Child("spec", "ephemeralContainers"), len(t.Spec.EphemeralContainers) > 0, "ephemeral containers not allowed in pod template")
}

// Validate reports what is wrong with spec, be it a pod's or a template's. Meta is the metadata beside it.
func Validate(r *rule.Report, path *field.Path, spec *v1.PodSpec, meta *metav1.ObjectMeta) {
	annotations(r, spec, meta)
	vols := volumes(r, path.Child("volumes"), spec.Volumes, meta)
	claims := resourceClaims(r, path.Child("resourceClaims"), spec.ResourceClaims)
	containers(r, path, spec, vols, claims)

	rule.OneOf(r, path.Child("restartPolicy"), spec.RestartPolicy, v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever)
	dns(r, path, spec)
	scheduling(r, path, spec)
	security(r, path, spec)
	podResources(r, path, spec)
	system(r, path, spec)

	r.Labels(path.Child("nodeSelector"), spec.NodeSelector)
	for _, n := range []struct{ field, value string }{
		{"serviceAccountName", spec.ServiceAccountName}, {"nodeName", spec.NodeName}, {"priorityClassName", spec.PriorityClassName},
	} {
		r.Optional(path.Child(n.field), n.value, subdomain)
	}
	if spec.RuntimeClassName != nil {
		r.Invalid(path.Child("runtimeClassName"), *spec.RuntimeClassName, subdomain(*spec.RuntimeClassName)...)
	}
	if n := spec.ActiveDeadlineSeconds; n != nil {
		r.Between(path.Child("activeDeadlineSeconds"), *n, 1, math.MaxInt32)
	}
	if n := spec.TerminationGracePeriodSeconds; n != nil {
		r.NotNegative(path.Child("terminationGracePeriodSeconds"), *n)
	}
	rule.OneOfOptional(r, path.Child("preemptionPolicy"), spec.PreemptionPolicy, v1.PreemptLowerPriority, v1.PreemptNever)
	if g := spec.SchedulingGroup; g != nil {
		if at := path.Child("schedulingGroup", "podGroupName"); r.Required(at, g.PodGroupName != nil, "") {
			r.Invalid(at, *g.PodGroupName, subdomain(*g.PodGroupName)...)
		}
	}
	evictionResponders(r, path, spec)
}

// dns are the pod's names, its resolver and its hosts file.
func dns(r *rule.Report, path *field.Path, spec *v1.PodSpec) {
	r.Optional(path.Child("hostname"), spec.Hostname, validation.IsDNS1123Label)
	r.Optional(path.Child("subdomain"), spec.Subdomain, validation.IsDNS1123Label)
	if o := spec.HostnameOverride; o != nil && *o != "" {
		at := path.Child("hostnameOverride")
		r.Invalid(at, *o, validation.IsDNS1123Subdomain(*o)...)
		if len(*o) > 64 {
			r.Add(field.TooLong(at, *o, 64))
		}
		r.Forbidden(at, spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN, "cannot be set when `setHostnameAsFQDN` is true")
		r.Forbidden(at, spec.HostNetwork, "cannot be set when `hostNetwork` is true")
	}
	rule.OneOf(r, path.Child("dnsPolicy"), spec.DNSPolicy, v1.DNSClusterFirstWithHostNet, v1.DNSClusterFirst, v1.DNSDefault, v1.DNSNone)
	config := path.Child("dnsConfig")
	if spec.DNSPolicy == v1.DNSNone {
		if spec.DNSConfig == nil {
			r.Add(field.Required(config, "must provide `dnsConfig` when `dnsPolicy` is None"))
		} else if len(spec.DNSConfig.Nameservers) == 0 {
			r.Add(field.Required(config.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
		}
	}
	if c := spec.DNSConfig; c != nil {
		resolver(r, config, c)
	}
	for i, a := range spec.HostAliases {
		at := path.Child("hostAliases").Index(i)
		if _, err := netip.ParseAddr(a.IP); err != nil {
			r.Invalid(at.Child("ip"), a.IP, "must be valid IP address")
		}
		for j, name := range a.Hostnames {
			r.Invalid(at.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name)...)
		}
	}
}

// resolver reports more than a stub resolver can use.
func resolver(r *rule.Report, path *field.Path, c *v1.PodDNSConfig) {
	const nameservers, searches, searchCharacters = 3, 32, 2048
	if n := len(c.Nameservers); n > nameservers {
		r.Add(field.TooMany(path.Child("nameservers"), n, nameservers))
	}
	for i, ns := range c.Nameservers {
		if _, err := netip.ParseAddr(ns); err != nil {
			r.Invalid(path.Child("nameservers").Index(i), ns, "must be valid IP address")
		}
	}
	if n := len(c.Searches); n > searches {
		r.Add(field.TooMany(path.Child("searches"), n, searches))
	}
	total := max(0, len(c.Searches)-1) // the spaces between
	for i, s := range c.Searches {
		total += len(s)
		if s == "." {
			continue // the root: look names up as they are
		}
		if n := len(s); n > 0 && s[n-1] == '.' {
			s = s[:n-1]
		}
		r.Invalid(path.Child("searches").Index(i), c.Searches[i], validation.IsDNS1123SubdomainWithUnderscore(s)...)
	}
	if total > searchCharacters {
		r.Invalid(path.Child("searches"), c.Searches, "must not have more than 2048 characters (including spaces) in the search list")
	}
	for i, o := range c.Options {
		r.Required(path.Child("options").Index(i).Child("name"), o.Name != "", "must not be empty")
	}
}

func evictionResponders(r *rule.Report, path *field.Path, spec *v1.PodSpec) {
	list := path.Child("evictionResponders")
	r.Forbidden(list, len(spec.EvictionResponders) > 0 && spec.SchedulingGroup != nil, "may not be set when `schedulingGroup` is set")
	if n := len(spec.EvictionResponders); n > 10 {
		r.Add(field.TooMany(list, n, 10))
	}
	seen := map[string]bool{}
	for i, e := range spec.EvictionResponders {
		at := list.Index(i)
		if r.Required(at.Child("name"), e.Name != "", "") {
			r.Add(validation.IsDomainPrefixedKey(at.Child("name"), e.Name)...)
			if seen[e.Name] {
				r.Add(field.Duplicate(at.Child("name"), e.Name))
			}
			seen[e.Name] = true
		}
		if r.Required(at.Child("priority"), e.Priority != nil, "") {
			r.Between(at.Child("priority"), int64(*e.Priority), 0, 100000)
		}
	}
}
