// SPDX-License-Identifier: Apache-2.0

// Package downward answers fieldRef and resourceFieldRef: a pod's own facts, for its environment and its volumes.
package downward

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Facts are what a pod's spec does not say.
type Facts struct {
	NodeName          string
	HostIPs, PodIPs   []string
	Allocatable       v1.ResourceList // of the node; limits that are not set are this
	PodLevelResources *v1.ResourceRequirements
}

// Field returns the value of a pod's field by path, as fieldRef names it.
func Field(path string, pod *v1.Pod, facts Facts) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
		return "", fmt.Errorf("field path %q is not supported", path)
	}
	switch path {
	case "metadata.annotations":
		return FormatMap(pod.Annotations), nil
	case "metadata.labels":
		return FormatMap(pod.Labels), nil
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return facts.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(facts.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(facts.HostIPs, ","), nil
	case "status.podIP":
		return first(facts.PodIPs), nil
	case "status.podIPs":
		return strings.Join(facts.PodIPs, ","), nil
	}
	return "", fmt.Errorf("field path %q is not supported", path)
}

// NeedsPodIP tells whether a field is known only once the pod has its address.
func NeedsPodIP(path string) bool { return path == "status.podIP" || path == "status.podIPs" }

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// subscript splits metadata.labels['key'].
func subscript(path string) (name, key string, ok bool) {
	if !strings.HasSuffix(path, "']") {
		return "", "", false
	}
	name, key, ok = strings.Cut(strings.TrimSuffix(path, "']"), "['")
	return name, key, ok
}

// FormatMap writes a map as lines key="value", sorted, the value quoted as in Go.
func FormatMap(m map[string]string) string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(lines, "\n")
}

// Resource returns a container's request or limit in units of the divisor, rounded up. A limit that is not set is what the node has to give.
func Resource(ref *v1.ResourceFieldSelector, container *v1.Container, facts Facts) (string, error) {
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var list v1.ResourceList
	switch kind {
	case "limits":
		list = container.Resources.Limits
	case "requests":
		list = container.Resources.Requests
	default:
		return "", fmt.Errorf("resource %q is not supported", ref.Resource)
	}
	quantity, set := list[v1.ResourceName(name)]
	if !set && kind == "requests" {
		quantity, set = container.Resources.Limits[v1.ResourceName(name)]
	}
	switch v1.ResourceName(name) {
	case v1.ResourceCPU:
		if !set && kind == "limits" {
			quantity = facts.Allocatable[v1.ResourceCPU]
		}
		return ceil(float64(quantity.MilliValue()), float64(divisor.MilliValue())), nil
	case v1.ResourceMemory, v1.ResourceEphemeralStorage:
		if !set && kind == "limits" {
			quantity = facts.Allocatable[v1.ResourceName(name)]
		}
		return ceil(float64(quantity.Value()), float64(divisor.Value())), nil
	}
	if strings.HasPrefix(name, v1.ResourceHugePagesPrefix) {
		return ceil(float64(quantity.Value()), float64(divisor.Value())), nil
	}
	return "", fmt.Errorf("resource %q is not supported", ref.Resource)
}

func ceil(value, divisor float64) string {
	return strconv.FormatInt(int64(math.Ceil(value/divisor)), 10)
}
