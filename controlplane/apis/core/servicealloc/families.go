// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	policyPath   = field.NewPath("spec", "ipFamilyPolicy")
	familiesPath = field.NewPath("spec", "ipFamilies")
	ipsPath      = field.NewPath("spec", "clusterIPs")
)

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() || a.Is4In6() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func needsAddress(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// settleFamilies fills ipFamilyPolicy and ipFamilies from what the client gave and what the cluster has. Of a living service, an update that leaves
// them out keeps them (FitService saw to that), and one that goes back to SingleStack drops the second family with its address.
func (a *Allocator) settleFamilies(s, old *corev1.Service) field.ErrorList {
	if !needsAddress(s) {
		return nil
	}
	spec := &s.Spec
	if old != nil && !needsAddress(old) {
		old = nil
	}
	if old != nil {
		toSingleStack(spec, &old.Spec)
	}
	// An address names its family.
	for i, text := range spec.ClusterIPs {
		if text == corev1.ClusterIPNone {
			break
		}
		if ip, err := netip.ParseAddr(text); err == nil && i == len(spec.IPFamilies) {
			spec.IPFamilies = append(spec.IPFamilies, familyOf(ip))
		}
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(spec.ClusterIPs) > 1 || len(spec.IPFamilies) > 1 || headless(s) && len(spec.Selector) == 0 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	if errs := a.checkFamilies(s); len(errs) > 0 {
		return errs
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{a.families[0]}
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack || len(spec.IPFamilies) > 1 {
		return nil
	}
	second := otherFamily(spec.IPFamilies[0])
	// A headless service without selector has no address of ours: whoever writes its endpoints may use both families on any cluster.
	if slices.Contains(a.families, second) || headless(s) && len(spec.Selector) == 0 {
		spec.IPFamilies = append(spec.IPFamilies, second)
	}
	return nil
}

// toSingleStack drops the second family when the client asks for SingleStack and otherwise sends back what it read.
func toSingleStack(spec, was *corev1.ServiceSpec) {
	dual := was.IPFamilyPolicy != nil && *was.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	single := spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if !dual || !single {
		return
	}
	if len(spec.ClusterIPs) > 1 && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
		spec.ClusterIPs = spec.ClusterIPs[:1]
	}
	if len(spec.IPFamilies) > 1 && slices.Equal(spec.IPFamilies, was.IPFamilies) {
		spec.IPFamilies = spec.IPFamilies[:1]
	}
}

// checkFamilies refuses combinations that no cluster could give, and those that this one cannot.
func (a *Allocator) checkFamilies(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	switch *spec.IPFamilyPolicy {
	case corev1.IPFamilyPolicySingleStack:
		if len(spec.ClusterIPs) > 1 {
			errs = append(errs, field.Invalid(policyPath, *spec.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple clusterIPs are specified"))
		}
		if len(spec.IPFamilies) > 1 {
			errs = append(errs, field.Invalid(policyPath, *spec.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified"))
		}
	case corev1.IPFamilyPolicyRequireDualStack:
		if len(a.families) < 2 && !(headless(s) && len(spec.Selector) == 0) {
			errs = append(errs, field.Invalid(policyPath, *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
		}
	case corev1.IPFamilyPolicyPreferDualStack:
	default:
		errs = append(errs, field.NotSupported(policyPath, *spec.IPFamilyPolicy, []corev1.IPFamilyPolicy{
			corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack}))
	}
	for i, f := range spec.IPFamilies {
		switch path := familiesPath.Index(i); {
		case f != corev1.IPv4Protocol && f != corev1.IPv6Protocol:
			errs = append(errs, field.NotSupported(path, f, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}))
		case slices.Contains(spec.IPFamilies[:i], f):
			errs = append(errs, field.Duplicate(path, f))
		case !slices.Contains(a.families, f) && !(headless(s) && len(spec.Selector) == 0):
			errs = append(errs, field.Invalid(path, f, "not configured on this cluster"))
		}
	}
	if len(spec.IPFamilies) > 2 {
		errs = append(errs, field.TooMany(familiesPath, len(spec.IPFamilies), 2))
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.TooMany(ipsPath, len(spec.ClusterIPs), 2))
	}
	if headless(s) {
		if len(spec.ClusterIPs) > 1 {
			errs = append(errs, field.Invalid(ipsPath, spec.ClusterIPs, "must be the single value None, or addresses"))
		}
		return errs
	}
	for i, text := range spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		switch path := ipsPath.Index(i); {
		case err != nil:
			errs = append(errs, field.Invalid(path, text, "must be a valid IP address, or None as the only value"))
		case i < len(spec.IPFamilies) && familyOf(ip) != spec.IPFamilies[i]:
			errs = append(errs, field.Invalid(path, text, "expected an address of family "+string(spec.IPFamilies[i])))
		}
	}
	return errs
}
