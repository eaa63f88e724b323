// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"net/netip"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// ValidateStatus reports a status that no pod of this spec could come to have from old's.
func ValidateStatus(r *rule.Report, pod, old *v1.Pod) {
	path := field.NewPath("status")
	st, was := &pod.Status, &old.Status
	r.Optional(path.Child("nominatedNodeName"), st.NominatedNodeName, subdomain)
	if was.QOSClass != "" {
		r.Same(path.Child("qosClass"), st.QOSClass, was.QOSClass)
	}
	for i, c := range st.Conditions {
		if c.Type != "" {
			r.Invalid(path.Child("conditions").Index(i).Child("type"), string(c.Type), validation.IsQualifiedName(string(c.Type))...)
		}
	}
	podIPs, hostIPs := make([]string, len(st.PodIPs)), make([]string, len(st.HostIPs))
	for i := range st.PodIPs {
		podIPs[i] = st.PodIPs[i].IP
	}
	for i := range st.HostIPs {
		hostIPs[i] = st.HostIPs[i].IP
	}
	onePerFamily(r, path.Child("podIPs"), podIPs)
	onePerFamily(r, path.Child("hostIPs"), hostIPs)
	if len(hostIPs) > 0 && st.HostIP != hostIPs[0] {
		r.Invalid(path.Child("hostIPs").Index(0).Child("ip"), hostIPs[0], "must be equal to `hostIP`")
	}

	// A container that ended for good does not run again.
	names := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		names[c.Name] = isSidecar(&c) || c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0
	}
	for _, c := range pod.Spec.Containers {
		names[c.Name] = c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0
	}
	for _, group := range []struct {
		name     string
		now, was []v1.ContainerStatus
	}{{"containerStatuses", st.ContainerStatuses, was.ContainerStatuses}, {"initContainerStatuses", st.InitContainerStatuses, was.InitContainerStatuses}} {
		if pod.Spec.RestartPolicy == v1.RestartPolicyAlways {
			break
		}
		for i, c := range group.was {
			t := c.State.Terminated
			if t == nil || names[c.Name] || t.ExitCode != 0 && pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure {
				continue
			}
			for _, n := range group.now {
				if n.Name == c.Name && n.State.Terminated == nil {
					r.Forbidden(path.Child(group.name).Index(i).Child("state"), true, "may not be transitioned to non-terminated state")
				}
			}
		}
	}
	claims := map[string]bool{}
	for _, c := range pod.Spec.ResourceClaims {
		claims[c.Name] = true
	}
	for i, c := range st.ResourceClaimStatuses {
		at := path.Child("resourceClaimStatuses").Index(i)
		if !claims[c.Name] {
			r.Invalid(at.Child("name"), c.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if c.ResourceClaimName != nil {
			r.Invalid(at.Child("resourceClaimName"), *c.ResourceClaimName, subdomain(*c.ResourceClaimName)...)
		}
	}
}

// onePerFamily reports addresses that are none, twice there, or more than one of a family.
func onePerFamily(r *rule.Report, at *field.Path, ips []string) {
	families := map[bool]bool{}
	seen := map[string]bool{}
	for i, text := range ips {
		ip, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			r.Invalid(at.Index(i), text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
			continue
		case seen[text]:
			r.Add(field.Duplicate(at.Index(i), text))
		case families[ip.Is4()]:
			r.Invalid(at, ips, "may specify no more than one IP for each IP family")
		}
		seen[text] = true
		families[ip.Is4()] = true
	}
}
