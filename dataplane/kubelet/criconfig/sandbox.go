// SPDX-License-Identifier: Apache-2.0

// Package criconfig turns a PodSpec into what CRI wants: sandbox and container configurations. It is pure: what must be looked
// up (addresses, secrets, images, mounts) comes in as arguments.
package criconfig

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	sysctls "k8s.io/component-helpers/node/util/sysctl"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

const maxHostname = 63

// Node is what of the node's own settings goes into configurations.
type Node struct {
	CgroupRoot     string
	PodLogsDir     string
	SeccompDir     string // of Localhost profiles
	MemoryBytes    int64  // of the machine
	SeccompDefault bool
}

// LogDir is the directory of a pod's container logs.
func (n Node) LogDir(pod *v1.Pod) string {
	return filepath.Join(n.PodLogsDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// LogPath is a container's log file below LogDir.
func LogPath(container string, attempt int) string {
	return filepath.Join(container, strconv.Itoa(attempt)+".log")
}

// Hostname is the pod's host name and domain: hostnameOverride, or hostname (else the pod's name, cut to 63 characters) and subdomain.
func Hostname(pod *v1.Pod, clusterDomain string) (name, domain string) {
	if override := pod.Spec.HostnameOverride; override != nil {
		return *override, ""
	}
	name = pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > maxHostname {
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return name, domain
}

// SandboxHostname is the name inside the sandbox: fully qualified when the pod asks for it.
func SandboxHostname(pod *v1.Pod, clusterDomain string) (string, error) {
	name, domain := Hostname(pod, clusterDomain)
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && domain != "" {
		full := name + "." + domain
		if len(full) > 64 {
			return "", fmt.Errorf("failed to construct FQDN from Pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", full, len(full))
		}
		return full, nil
	}
	return name, nil
}

// Labels of a pod's sandbox.
func podLabels(pod *v1.Pod) map[string]string {
	labels := map[string]string{}
	for key, value := range pod.Labels {
		labels[key] = value
	}
	labels[observed.LabelPodName], labels[observed.LabelPodNamespace], labels[observed.LabelPodUID] = pod.Name, pod.Namespace, string(pod.UID)
	return labels
}

// Sandbox returns the configuration of the pod's sandbox. dns is nil for pods that get the node's resolv.conf unchanged;
// userns is nil without a user namespace.
func Sandbox(pod *v1.Pod, attempt int, node Node, hostname string, dns *runtimeapi.DNSConfig, userns *runtimeapi.UserNamespace) *runtimeapi.PodSandboxConfig {
	annotations := map[string]string{}
	for key, value := range pod.Annotations {
		annotations[key] = value
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		annotations[observed.AnnotationGracePeriod] = strconv.FormatInt(*pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: uint32(attempt)},
		Labels:       podLabels(pod),
		Annotations:  annotations,
		LogDirectory: node.LogDir(pod),
		DnsConfig:    dns,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    cgroups.Pod(node.CgroupRoot, cgroups.QOSClass(pod), pod.UID),
			SecurityContext: sandboxSecurity(pod, node, userns),
			Sysctls:         map[string]string{},
		},
	}
	if !pod.Spec.HostNetwork || pod.Spec.HostnameOverride != nil {
		config.Hostname = hostname
	}
	if security := pod.Spec.SecurityContext; security != nil {
		for _, sysctl := range security.Sysctls {
			config.Linux.Sysctls[sysctls.NormalizeName(sysctl.Name)] = sysctl.Value
		}
	}
	for i := range pod.Spec.Containers {
		for _, port := range pod.Spec.Containers[i].Ports {
			config.PortMappings = append(config.PortMappings, &runtimeapi.PortMapping{
				Protocol: protocol(port.Protocol), ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP,
			})
		}
	}
	return config
}

func protocol(p v1.Protocol) runtimeapi.Protocol {
	switch p {
	case v1.ProtocolUDP:
		return runtimeapi.Protocol_UDP
	case v1.ProtocolSCTP:
		return runtimeapi.Protocol_SCTP
	}
	return runtimeapi.Protocol_TCP
}

func sandboxSecurity(pod *v1.Pod, node Node, userns *runtimeapi.UserNamespace) *runtimeapi.LinuxSandboxSecurityContext {
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: Namespaces(pod, userns),
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if s := list[i].SecurityContext; s != nil && s.Privileged != nil && *s.Privileged {
				out.Privileged = true
			}
		}
	}
	if out.Privileged {
		out.Seccomp.ProfileType = runtimeapi.SecurityProfile_Unconfined
	}
	security := pod.Spec.SecurityContext
	if security == nil {
		return out
	}
	if security.RunAsUser != nil {
		out.RunAsUser = &runtimeapi.Int64Value{Value: *security.RunAsUser}
		if security.RunAsGroup != nil {
			out.RunAsGroup = &runtimeapi.Int64Value{Value: *security.RunAsGroup}
		}
	}
	if security.FSGroup != nil {
		out.SupplementalGroups = append(out.SupplementalGroups, *security.FSGroup)
	}
	out.SupplementalGroups = append(out.SupplementalGroups, security.SupplementalGroups...)
	out.SupplementalGroupsPolicy = groupsPolicy(security)
	out.SelinuxOptions = selinux(security.SELinuxOptions)
	if security.SeccompProfile != nil {
		out.Seccomp = profile(security.SeccompProfile.Type, security.SeccompProfile.LocalhostProfile, node.SeccompDir)
	}
	return out
}

func groupsPolicy(security *v1.PodSecurityContext) runtimeapi.SupplementalGroupsPolicy {
	if security != nil && security.SupplementalGroupsPolicy != nil && *security.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

// Namespaces are the pod's namespace modes.
func Namespaces(pod *v1.Pod, userns *runtimeapi.UserNamespace) *runtimeapi.NamespaceOption {
	out := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: userns}
	if pod.Spec.HostNetwork {
		out.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		out.Ipc = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostPID {
		out.Pid = runtimeapi.NamespaceMode_NODE
	} else if pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace {
		out.Pid = runtimeapi.NamespaceMode_POD
	}
	return out
}

func selinux(o *v1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func profile(kind v1.SeccompProfileType, localhost *string, dir string) *runtimeapi.SecurityProfile {
	switch kind {
	case v1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case v1.SeccompProfileTypeLocalhost:
		if localhost != nil {
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(dir, *localhost)}
		}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}
