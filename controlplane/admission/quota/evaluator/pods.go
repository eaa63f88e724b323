// SPDX-License-Identifier: Apache-2.0

package evaluator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/clock"
)

const (
	requestsPrefix  = "requests."
	hugePages       = "hugepages-"
	kubernetesShare = "kubernetes.io/" // extended resources are not of this domain
)

// podNames are the names under which pods are measured, besides huge pages and extended resources.
var podNames = map[corev1.ResourceName]bool{
	corev1.ResourcePods: true, corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true,
	corev1.ResourceRequestsCPU: true, corev1.ResourceRequestsMemory: true, corev1.ResourceRequestsEphemeralStorage: true,
	corev1.ResourceLimitsCPU: true, corev1.ResourceLimitsMemory: true, corev1.ResourceLimitsEphemeralStorage: true,
}

func podRules(clk clock.PassiveClock) rules {
	return rules{
		handles: func(a admission.Attributes) bool {
			switch a.GetSubresource() {
			case "":
				return a.GetOperation() == admission.Create
			case "resize":
				return a.GetOperation() == admission.Update
			}
			return false
		},
		matching: func(n corev1.ResourceName) bool {
			if podNames[n] || strings.HasPrefix(string(n), hugePages) {
				return true
			}
			rest, ok := strings.CutPrefix(string(n), requestsPrefix)
			return ok && (strings.HasPrefix(rest, hugePages) || isExtended(corev1.ResourceName(rest)))
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			pod, err := as[*corev1.Pod](obj)
			if err != nil {
				return nil, err
			}
			if finished(pod, clk.Now()) {
				return nil, nil
			}
			return podUsage(pod), nil
		},
		scope:       podScope,
		constraints: podConstraints,
	}
}

// isExtended reports whether n is a resource of somebody's device plugin.
func isExtended(n corev1.ResourceName) bool {
	domain, _, ok := strings.Cut(string(n), "/")
	return ok && domain+"/" != kubernetesShare && !strings.HasSuffix(domain, ".kubernetes.io") && !strings.HasPrefix(string(n), requestsPrefix) &&
		!strings.HasSuffix(domain, classDomainSuffix) && !strings.HasSuffix(domain, deviceClassSuffix)
}

// finished pods use nothing: those that ended, and those that should be gone but whose node does not answer.
func finished(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	// The deletion timestamp includes the grace period already.
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && now.After(pod.DeletionTimestamp.Time)
}

func podUsage(pod *corev1.Pod) corev1.ResourceList {
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	out := corev1.ResourceList{corev1.ResourcePods: one()}
	for name, q := range resourcehelper.PodRequests(pod, options) {
		switch {
		case podNames[name], strings.HasPrefix(string(name), hugePages):
			out[name] = q
			out[requestsPrefix+name] = q
		case isExtended(name):
			out[requestsPrefix+name] = q
		}
	}
	for name, q := range resourcehelper.PodLimits(pod, options) {
		if podNames[name] {
			out["limits."+name] = q
		}
	}
	return out
}

// podConstraints: a quota on a compute resource is only of use when everybody says what he needs of it.
func podConstraints(required []corev1.ResourceName, obj runtime.Object) error {
	pod, err := as[*corev1.Pod](obj)
	if err != nil {
		return err
	}
	missing := map[corev1.ResourceName][]string{}
	for _, name := range required {
		list, compute := corev1.ResourceList(nil), corev1.ResourceName("")
		podLevel := func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Requests }
		switch name {
		case corev1.ResourceCPU, corev1.ResourceRequestsCPU:
			compute = corev1.ResourceCPU
		case corev1.ResourceMemory, corev1.ResourceRequestsMemory:
			compute = corev1.ResourceMemory
		case corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
			compute = corev1.ResourceName(strings.TrimPrefix(string(name), "limits."))
			podLevel = func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Limits }
		default:
			continue
		}
		if pod.Spec.Resources != nil {
			list = podLevel(pod.Spec.Resources)
		}
		if _, ok := list[compute]; ok {
			continue
		}
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			if _, ok := podLevel(&c.Resources)[compute]; !ok {
				missing[name] = append(missing[name], c.Name)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		texts = append(texts, fmt.Sprintf("%s for: %s", name, strings.Join(missing[name], ",")))
	}
	return fmt.Errorf("must specify %s", strings.Join(texts, "; "))
}

func podScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	pod, err := as[*corev1.Pod](obj)
	if err != nil {
		return false, err
	}
	terminating := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating, nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating, nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		if s.Operator == corev1.ScopeSelectorOpExists {
			return pod.Spec.PriorityClassName != "", nil
		}
		return selects(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod), nil
	}
	return false, nil
}

// selects applies the operator of s to one value.
func selects(s corev1.ScopedResourceSelectorRequirement, value string) (bool, error) {
	operators := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	operator, ok := operators[s.Operator]
	if !ok {
		return false, fmt.Errorf("%q is not a valid scope selector operator", s.Operator)
	}
	set := labels.Set{}
	if value != "" {
		set[string(s.ScopeName)] = value
	}
	r, err := labels.NewRequirement(string(s.ScopeName), operator, s.Values)
	if err != nil {
		return false, fmt.Errorf("scope selector of %s: %w", s.ScopeName, err)
	}
	return r.Matches(set), nil
}

// bestEffort: no container, and not the pod as a whole, asks for CPU or memory.
func bestEffort(pod *corev1.Pod) bool {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	}
	asks := func(r corev1.ResourceRequirements) bool {
		for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
			for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if q, ok := list[n]; ok && !q.IsZero() {
					return true
				}
			}
		}
		return false
	}
	if pod.Spec.Resources != nil && asks(*pod.Spec.Resources) {
		return false
	}
	return !slices.ContainsFunc(slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers), func(c corev1.Container) bool { return asks(c.Resources) })
}

// crossesNamespaces reports whether a (anti-)affinity term of pod looks at pods of other namespaces.
func crossesNamespaces(pod *corev1.Pod) bool {
	crosses := func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	weighted := func(t corev1.WeightedPodAffinityTerm) bool { return crosses(t.PodAffinityTerm) }
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	if p := a.PodAffinity; p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted)) {
		return true
	}
	p := a.PodAntiAffinity
	return p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted))
}

func as[T any](obj runtime.Object) (T, error) {
	o, ok := obj.(T)
	if !ok {
		return o, fmt.Errorf("expected %T, got %T", o, obj)
	}
	return o, nil
}
