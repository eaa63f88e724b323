// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// system reports fields that the pod's operating system, or its own user namespace, rules out.
func system(r *rule.Report, path *field.Path, spec *v1.PodSpec) {
	hostProcess(r, path, spec)
	if spec.HostUsers != nil && !*spec.HostUsers {
		at := path.Child("hostUsers")
		for _, shared := range []struct {
			name string
			set  bool
		}{{"hostNetwork", spec.HostNetwork}, {"hostPID", spec.HostPID}, {"hostIPC", spec.HostIPC}} {
			r.Forbidden(at, shared.set, "when `hostUsers` is false, `"+shared.name+"` must not be true")
		}
		for i := range spec.Containers {
			r.Forbidden(path.Child("containers").Index(i).Child("volumeDevices"), len(spec.Containers[i].VolumeDevices) > 0, "cannot be used when `hostUsers` is false")
		}
	}
	if spec.OS == nil {
		return
	}
	rule.OneOf(r, path.Child("os", "name"), spec.OS.Name, v1.Linux, v1.Windows)
	forbid := func(at *field.Path, set bool) {
		r.Forbidden(at, set, "cannot be set for a "+string(spec.OS.Name)+" pod")
	}
	sc := spec.SecurityContext
	if sc == nil {
		sc = &v1.PodSecurityContext{}
	}
	pod := path.Child("securityContext")
	switch spec.OS.Name {
	case v1.Linux:
		forbid(pod.Child("windowsOptions"), sc.WindowsOptions != nil)
		eachContext(path, spec, func(at *field.Path, c *v1.SecurityContext) {
			forbid(at.Child("windowsOptions"), c.WindowsOptions != nil)
		})
	case v1.Windows:
		forbid(path.Child("hostPID"), spec.HostPID)
		forbid(path.Child("hostIPC"), spec.HostIPC)
		forbid(path.Child("hostUsers"), spec.HostUsers != nil)
		forbid(path.Child("shareProcessNamespace"), spec.ShareProcessNamespace != nil)
		forbid(pod.Child("appArmorProfile"), sc.AppArmorProfile != nil)
		forbid(pod.Child("seLinuxOptions"), sc.SELinuxOptions != nil)
		forbid(pod.Child("seccompProfile"), sc.SeccompProfile != nil)
		forbid(pod.Child("fsGroup"), sc.FSGroup != nil)
		forbid(pod.Child("fsGroupChangePolicy"), sc.FSGroupChangePolicy != nil)
		forbid(pod.Child("sysctls"), len(sc.Sysctls) > 0)
		forbid(pod.Child("runAsUser"), sc.RunAsUser != nil)
		forbid(pod.Child("runAsGroup"), sc.RunAsGroup != nil)
		forbid(pod.Child("supplementalGroups"), sc.SupplementalGroups != nil)
		forbid(pod.Child("supplementalGroupsPolicy"), sc.SupplementalGroupsPolicy != nil)
		forbid(pod.Child("seLinuxChangePolicy"), sc.SELinuxChangePolicy != nil)
		eachContext(path, spec, func(at *field.Path, c *v1.SecurityContext) {
			forbid(at.Child("appArmorProfile"), c.AppArmorProfile != nil)
			forbid(at.Child("seLinuxOptions"), c.SELinuxOptions != nil)
			forbid(at.Child("seccompProfile"), c.SeccompProfile != nil)
			forbid(at.Child("capabilities"), c.Capabilities != nil)
			forbid(at.Child("readOnlyRootFilesystem"), c.ReadOnlyRootFilesystem != nil)
			forbid(at.Child("privileged"), c.Privileged != nil)
			forbid(at.Child("allowPrivilegeEscalation"), c.AllowPrivilegeEscalation != nil)
			forbid(at.Child("procMount"), c.ProcMount != nil)
			forbid(at.Child("runAsUser"), c.RunAsUser != nil)
			forbid(at.Child("runAsGroup"), c.RunAsGroup != nil)
		})
	}
}

func eachContext(path *field.Path, spec *v1.PodSpec, f func(at *field.Path, c *v1.SecurityContext)) {
	for _, group := range []struct {
		name string
		list []v1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}} {
		for i := range group.list {
			if c := group.list[i].SecurityContext; c != nil {
				f(path.Child(group.name).Index(i).Child("securityContext"), c)
			}
		}
	}
	for i := range spec.EphemeralContainers {
		if c := spec.EphemeralContainers[i].SecurityContext; c != nil {
			f(path.Child("ephemeralContainers").Index(i).Child("securityContext"), c)
		}
	}
}

// hostProcess: on Windows a pod runs on the host with all its containers or with none, and then in the host's network.
func hostProcess(r *rule.Report, path *field.Path, spec *v1.PodSpec) {
	var pod *bool
	if spec.SecurityContext != nil && spec.SecurityContext.WindowsOptions != nil {
		pod = spec.SecurityContext.WindowsOptions.HostProcess
	}
	effective := func(c *v1.Container) bool {
		if sc := c.SecurityContext; sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil {
			return *sc.WindowsOptions.HostProcess
		}
		return pod != nil && *pod
	}
	all := slices.Concat(spec.InitContainers, spec.Containers)
	n := 0
	for i := range all {
		c := &all[i]
		if effective(c) {
			n++
		}
		if sc := c.SecurityContext; pod != nil && sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil &&
			*sc.WindowsOptions.HostProcess != *pod {
			r.Invalid(path.Child("securityContext", "windowsOptions", "hostProcess"), *pod,
				"pod hostProcess value must be identical if both are specified, for container "+c.Name)
		}
	}
	if n == 0 {
		return
	}
	if n != len(all) {
		r.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers")
	}
	if !spec.HostNetwork {
		r.Invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}
