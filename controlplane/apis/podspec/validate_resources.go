// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// ResourceName reports a name that no resource can have. Without a domain, only the names that Kubernetes itself gives are possible.
func ResourceName(r *rule.Report, path *field.Path, name v1.ResourceName, native func(v1.ResourceName) bool) {
	r.Invalid(path, name, validation.IsQualifiedName(string(name))...)
	if !strings.Contains(string(name), "/") && !native(name) {
		r.Invalid(path, name, "must be a standard resource type or fully qualified")
	}
}

// containerResource: what a container can ask for by a name without domain.
func containerResource(name v1.ResourceName) bool {
	return name == v1.ResourceCPU || name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage || isHugePage(name)
}

// extended resources are advertised by nodes under a domain of their own; they are counted in wholes and never overcommitted.
func extended(name v1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") && !strings.Contains(s, v1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(s, v1.DefaultResourceRequestsPrefix)
}

// IsInteger tells whether amounts of the resource are counted in wholes.
func IsInteger(name v1.ResourceName) bool {
	switch name {
	case v1.ResourcePods, v1.ResourceQuotas, v1.ResourceServices, v1.ResourceReplicationControllers, v1.ResourceSecrets, v1.ResourceConfigMaps,
		v1.ResourcePersistentVolumeClaims, v1.ResourceServicesNodePorts, v1.ResourceServicesLoadBalancers:
		return true
	}
	return extended(name)
}

// Quantity reports an amount that is negative, or a fraction of what comes in wholes.
func Quantity(r *rule.Report, path *field.Path, name v1.ResourceName, q resource.Quantity) {
	if q.Sign() < 0 {
		r.Invalid(path, q.String(), "must be greater than or equal to 0")
	}
	if IsInteger(name) && q.MilliValue()%1000 != 0 {
		r.Invalid(path, q.String(), "must be an integer")
	}
}

// list reports what is wrong with amounts of resources that containers can have.
func list(r *rule.Report, path *field.Path, amounts v1.ResourceList) {
	for _, name := range slices.Sorted(maps.Keys(amounts)) {
		at := path.Key(string(name))
		ResourceName(r, at, name, containerResource)
		q := amounts[name]
		Quantity(r, at, name, q)
		if size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
			page, err := resource.ParseQuantity(size)
			switch {
			case err != nil || page.Sign() <= 0:
				r.Invalid(at, name, "must name the page size as a quantity, as hugepages-2Mi")
			case q.Value()%page.Value() != 0:
				r.Invalid(at, q.String(), "must be a multiple of the page size")
			}
		}
	}
}

// requirements reports what is wrong with a container's requests and limits.
func (s *scope) requirements(r *rule.Report, path *field.Path, q *v1.ResourceRequirements) {
	limits, requests := path.Child("limits"), path.Child("requests")
	list(r, limits, q.Limits)
	list(r, requests, q.Requests)
	within(r, path, q)
	huge := false
	standard := false
	for _, amounts := range []v1.ResourceList{q.Limits, q.Requests} {
		for name := range amounts {
			huge = huge || isHugePage(name)
			standard = standard || name == v1.ResourceCPU || name == v1.ResourceMemory
		}
	}
	podLevel := s.spec.Resources != nil && len(s.spec.Resources.Limits)+len(s.spec.Resources.Requests) > 0
	r.Forbidden(path, huge && !standard && !podLevel, "HugePages require cpu or memory")
	s.claimRefs(r, path.Child("claims"), q.Claims)
}

// within reports requests beyond the limit, and any difference where overcommitting is impossible.
func within(r *rule.Report, path *field.Path, q *v1.ResourceRequirements) {
	for _, name := range slices.Sorted(maps.Keys(q.Requests)) {
		request := q.Requests[name]
		limit, ok := q.Limits[name]
		at := path.Child("requests").Key(string(name))
		switch {
		case !ok && (extended(name) || isHugePage(name)):
			r.Add(field.Required(path.Child("limits").Key(string(name)), "Limit must be set for non overcommitable resources"))
		case ok && (extended(name) || isHugePage(name)) && request.Cmp(limit) != 0:
			r.Invalid(at, request.String(), "must be equal to "+string(name)+" limit of "+limit.String())
		case ok && request.Cmp(limit) > 0:
			r.Invalid(at, request.String(), "must be less than or equal to "+string(name)+" limit of "+limit.String())
		}
	}
}

// claimRefs reports references to claims that the pod does not have.
func (s *scope) claimRefs(r *rule.Report, path *field.Path, refs []v1.ResourceClaim) {
	type ref struct{ name, request string }
	seen := map[ref]bool{}
	for i, c := range refs {
		at := path.Index(i)
		if !r.Required(at, c.Name != "", "") {
			continue
		}
		r.Optional(at.Child("request"), c.Request, validation.IsDNS1123Label)
		switch {
		case !s.claims[c.Name]:
			r.Add(field.NotFound(at.Child("name"), c.Name))
		case seen[ref{c.Name, c.Request}]:
			r.Add(field.Duplicate(at, c.Name))
		case c.Request != "" && seen[ref{c.Name, ""}], c.Request == "" && mentioned(seen, func(x ref) bool { return x.name == c.Name }):
			r.Add(field.Duplicate(at, c.Name)) // the whole claim covers its requests
		}
		seen[ref{c.Name, c.Request}] = true
	}
}

func mentioned[K comparable](m map[K]bool, match func(K) bool) bool {
	for k := range m {
		if match(k) {
			return true
		}
	}
	return false
}

// resourceClaims reports what is wrong with the pod's claims and returns their names.
func resourceClaims(r *rule.Report, path *field.Path, claims []v1.PodResourceClaim) map[string]bool {
	names := map[string]bool{}
	for i, c := range claims {
		at := path.Index(i)
		r.Name(at.Child("name"), c.Name, validation.IsDNS1123Label)
		if names[c.Name] && c.Name != "" {
			r.Add(field.Duplicate(at.Child("name"), c.Name))
		}
		names[c.Name] = true
		r.ExactlyOne(at, rule.Choice{Name: "resourceClaimName", Set: c.ResourceClaimName != nil},
			rule.Choice{Name: "resourceClaimTemplateName", Set: c.ResourceClaimTemplateName != nil})
		if c.ResourceClaimName != nil {
			r.Invalid(at.Child("resourceClaimName"), *c.ResourceClaimName, subdomain(*c.ResourceClaimName)...)
		}
		if c.ResourceClaimTemplateName != nil {
			r.Invalid(at.Child("resourceClaimTemplateName"), *c.ResourceClaimTemplateName, subdomain(*c.ResourceClaimTemplateName)...)
		}
	}
	return names
}

func resizePolicy(r *rule.Report, path *field.Path, policies []v1.ContainerResizePolicy, spec *v1.PodSpec) {
	seen := map[v1.ResourceName]bool{}
	for i, p := range policies {
		at := path.Index(i)
		rule.OneOf(r, at.Child("resourceName"), p.ResourceName, v1.ResourceCPU, v1.ResourceMemory)
		rule.OneOf(r, at.Child("restartPolicy"), p.RestartPolicy, v1.NotRequired, v1.RestartContainer)
		if seen[p.ResourceName] {
			r.Add(field.Duplicate(at, p.ResourceName))
		}
		seen[p.ResourceName] = true
		if spec.RestartPolicy == v1.RestartPolicyNever && p.RestartPolicy == v1.RestartContainer {
			r.Invalid(at.Child("restartPolicy"), p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'")
		}
	}
}

// podResources reports what is wrong with the resources of the pod as a whole, and with containers that go beyond them.
func podResources(r *rule.Report, path *field.Path, spec *v1.PodSpec) {
	list(r, path.Child("overhead"), spec.Overhead)
	q := spec.Resources
	if q == nil {
		return
	}
	at := path.Child("resources")
	r.Forbidden(at.Child("claims"), len(q.Claims) > 0, "claims may not be set for Resources at pod-level")
	for _, amounts := range []struct {
		name string
		list v1.ResourceList
	}{{"limits", q.Limits}, {"requests", q.Requests}} {
		list(r, at.Child(amounts.name), amounts.list)
		for _, name := range slices.Sorted(maps.Keys(amounts.list)) {
			if !resourcehelper.IsSupportedPodLevelResource(name) {
				r.Add(field.NotSupported(at.Child(amounts.name).Key(string(name)), name, []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceHugePagesPrefix}))
			}
		}
	}
	within(r, at, q)
	r.Forbidden(at, spec.OS != nil && spec.OS.Name == v1.Windows, "may not be set for windows pods")
	pod := &v1.Pod{Spec: *spec}
	requested := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(q.Requests)) {
		all, whole := requested[name], q.Requests[name]
		if resourcehelper.IsSupportedPodLevelResource(name) && all.Cmp(whole) > 0 {
			r.Invalid(at.Child("requests").Key(string(name)), whole.String(), "must be greater than or equal to aggregate container requests of "+all.String())
		}
	}
	for i := range spec.Containers {
		for _, name := range slices.Sorted(maps.Keys(spec.Containers[i].Resources.Limits)) {
			one := spec.Containers[i].Resources.Limits[name]
			if whole, ok := q.Limits[name]; ok && one.Cmp(whole) > 0 {
				r.Invalid(path.Child("containers").Index(i).Child("resources", "limits").Key(string(name)), one.String(),
					"must be less than or equal to pod limits of "+whole.String())
			}
		}
	}
}
