// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	sysctls "k8s.io/component-helpers/node/util/sysctl"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
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
			if name := sysctls.NormalizeName(sysctl.Name); !slices.Contains(safeSysctls, name) && !slices.Contains(k.cfg.AllowedUnsafeSysctls, name) {
				return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", sysctl.Name)
			}
		}
	}
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	if portsTaken(pod, k.workers.Views()) {
		return "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
	}
	return k.room(pod)
}

// portsTaken tells whether another pod of the node has one of the host ports that pod asks for. Of two that came together the older one gets it.
func portsTaken(pod *v1.Pod, views []podworker.View) bool {
	wanted := hostPorts(pod)
	if len(wanted) == 0 {
		return false
	}
	for _, view := range views {
		other := view.Pod
		if other.UID == pod.UID || !takesRoom(view) {
			continue
		}
		created, theirs := pod.CreationTimestamp.Time, other.CreationTimestamp.Time
		first := theirs.Before(created) || theirs.Equal(created) && other.UID < pod.UID
		if !first && len(view.Observed.Sandboxes) == 0 {
			continue
		}
		for _, port := range hostPorts(other) {
			if slices.ContainsFunc(wanted, port.conflicts) {
				return true
			}
		}
	}
	return false
}

// takesRoom tells whether the pod of a view still has what it was given.
func takesRoom(view podworker.View) bool {
	return !view.Ended && view.Pod.Status.Phase != v1.PodSucceeded && view.Pod.Status.Phase != v1.PodFailed
}

// hostPort is a port that a pod has of its node; without an address it is that of all addresses.
type hostPort struct {
	protocol v1.Protocol
	ip       string
	port     int32
}

func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || p.ip == "" || o.ip == "")
}

// hostPorts are those of the containers that run together.
func hostPorts(pod *v1.Pod) (ports []hostPort) {
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			one := hostPort{protocol: cmp.Or(p.Protocol, v1.ProtocolTCP), ip: p.HostIP, port: p.HostPort}
			if one.ip == "0.0.0.0" || one.ip == "::" {
				one.ip = ""
			}
			ports = append(ports, one)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

// room tells which resource of the node is short for the pod.
func (k *kubelet) room(pod *v1.Pod) (reason, message string) {
	allocatable := k.keeper.Allocatable()
	used := v1.ResourceList{}
	count := int64(0)
	for _, view := range k.workers.Views() {
		if view.Pod.UID == pod.UID || !takesRoom(view) {
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
