// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// DefaultPod fills what only pods, not templates, default: a template's resources stay as written, so that admission can still add limits.
func DefaultPod(p *v1.Pod) {
	Default(&p.Spec)
	for _, containers := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range containers {
			requestsFromLimits(&containers[i].Resources)
			if p.Spec.HostNetwork {
				hostPorts(containers[i].Ports)
			}
		}
	}
	if r := p.Spec.Resources; r != nil && (len(r.Limits) > 0 || len(r.Requests) > 0) {
		podLevelResources(p, r)
	}
	if p.Spec.EnableServiceLinks == nil {
		p.Spec.EnableServiceLinks = new(v1.DefaultEnableServiceLinks)
	}
	for _, statuses := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range statuses {
			RoundUp(statuses[i].AllocatedResources)
			if r := statuses[i].Resources; r != nil {
				RoundUp(r.Limits)
				RoundUp(r.Requests)
			}
		}
	}
	// podIP is the first of podIPs. A writer that knows only podIP wins over a list that says otherwise.
	st := &p.Status
	switch {
	case st.PodIP == "" && len(st.PodIPs) > 0:
		st.PodIP = st.PodIPs[0].IP
	case st.PodIP != "" && (len(st.PodIPs) == 0 || st.PodIPs[0].IP != st.PodIP):
		st.PodIPs = []v1.PodIP{{IP: st.PodIP}}
	}
}

// hostPorts gives every port of a pod in the node's network the number it is bound to there.
func hostPorts(ports []v1.ContainerPort) {
	for i := range ports {
		if ports[i].HostPort == 0 {
			ports[i].HostPort = ports[i].ContainerPort
		}
	}
}

func requestsFromLimits(r *v1.ResourceRequirements) {
	if r.Limits != nil && r.Requests == nil {
		r.Requests = v1.ResourceList{}
	}
	fill(r.Requests, r.Limits, func(v1.ResourceName) bool { return true })
}

// podLevelResources completes resources of the whole pod (KEP-2837). Huge pages: the limit is the sum of the containers' limits. Requests, where
// there are limits: what containers request in all, else the limit. Limits, where there are only requests: the sum, if every container has one.
func podLevelResources(p *v1.Pod, r *v1.ResourceRequirements) {
	limits := resourcehelper.AggregateContainerLimits(p, resourcehelper.PodResourcesOptions{})
	hadLimits := len(r.Limits) > 0
	hugePages := func(name v1.ResourceName) bool {
		_, requested := r.Requests[name]
		return isHugePage(name) && !requested && resourcehelper.IsSupportedPodLevelResource(name)
	}
	r.Limits = filled(r.Limits, limits, hugePages)
	if len(r.Limits) > 0 {
		requests := resourcehelper.AggregateContainerRequests(p, resourcehelper.PodResourcesOptions{})
		r.Requests = filled(r.Requests, requests, func(name v1.ResourceName) bool {
			return resourcehelper.IsSupportedPodLevelResource(name) && !isHugePage(name)
		})
		r.Requests = filled(r.Requests, r.Limits, resourcehelper.IsSupportedPodLevelResource)
	}
	if !hadLimits {
		r.Limits = filled(r.Limits, limits, func(name v1.ResourceName) bool {
			return resourcehelper.IsSupportedPodLevelResource(name) && !isHugePage(name) && everyContainerLimits(p, name)
		})
	}
}

func everyContainerLimits(p *v1.Pod, name v1.ResourceName) bool {
	for _, containers := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			if _, ok := containers[i].Resources.Limits[name]; !ok {
				return false
			}
		}
	}
	return true
}

func isHugePage(name v1.ResourceName) bool {
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

// filled is fill that makes the map when there is something to put in.
func filled(into, from v1.ResourceList, want func(v1.ResourceName) bool) v1.ResourceList {
	if into == nil {
		into = v1.ResourceList{}
	}
	fill(into, from, want)
	if len(into) == 0 {
		return nil
	}
	return into
}

func fill(into, from v1.ResourceList, want func(v1.ResourceName) bool) {
	for name, q := range from {
		if _, ok := into[name]; !ok && want(name) {
			into[name] = q.DeepCopy()
		}
	}
}
