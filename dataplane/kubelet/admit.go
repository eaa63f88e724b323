// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/fairlead/fairlead/dataplane/kubelet/shutdown"
)

// safeSysctls are namespaced by the kernel and cannot hurt other pods.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
}

// admit tells why a pod cannot run here: the last check, for pods that were not scheduled or whose node changed meanwhile.
func (k *kubelet) admit(pod *v1.Pod) (reason, message string) {
	if k.shutdown.Active() {
		return shutdown.RejectReason, shutdown.RejectMessage
	}
	if n := k.keeper.Node(); n != nil {
		match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(n)
		if err != nil || !match {
			return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
		}
	}
	if security := pod.Spec.SecurityContext; security != nil {
		for _, sysctl := range security.Sysctls {
			if !slices.Contains(safeSysctls, sysctl.Name) && !slices.Contains(k.cfg.AllowedUnsafeSysctls, sysctl.Name) {
				return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", sysctl.Name)
			}
		}
	}
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	return k.room(pod)
}

// room tells which resource of the node is short for the pod.
func (k *kubelet) room(pod *v1.Pod) (reason, message string) {
	allocatable := k.keeper.Allocatable()
	used := v1.ResourceList{}
	count := int64(0)
	for _, view := range k.workers.Views() {
		if view.Pod.UID == pod.UID || view.Ended || view.Pod.Status.Phase == v1.PodSucceeded || view.Pod.Status.Phase == v1.PodFailed {
			continue
		}
		count++
		for name, quantity := range podresource.PodRequests(view.Pod, podresource.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(quantity)
			used[name] = sum
		}
	}
	if most, ok := allocatable[v1.ResourcePods]; ok && count+1 > most.Value() {
		return "OutOfpods", fmt.Sprintf("Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", count, most.Value())
	}
	for name, wanted := range podresource.PodRequests(pod, podresource.PodResourcesOptions{}) {
		has, ok := allocatable[name]
		if k.devices.Has(name) {
			continue // the device manager knows better what is free
		}
		if wanted.IsZero() || !ok && name != v1.ResourceCPU && name != v1.ResourceMemory {
			continue
		}
		sum := used[name]
		sum.Add(wanted)
		if sum.Cmp(has) > 0 {
			of := used[name]
			if name == v1.ResourceCPU {
				return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, wanted.MilliValue(), of.MilliValue(), has.MilliValue())
			}
			return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, wanted.Value(), of.Value(), has.Value())
		}
	}
	return "", ""
}

// fits tells whether a running pod can have the resources it now asks for: never, not now, or an empty reason.
func (k *kubelet) fits(pod *v1.Pod) (reason, message string) {
	allocatable := k.keeper.Allocatable()
	for name, wanted := range podresource.PodRequests(pod, podresource.PodResourcesOptions{}) {
		if has, ok := allocatable[name]; ok && wanted.Cmp(has) > 0 {
			return v1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, wanted.MilliValue(), has.MilliValue())
		}
	}
	if reason, message := k.room(pod); reason != "" {
		return v1.PodReasonDeferred, message
	}
	return "", ""
}
