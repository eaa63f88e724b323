// SPDX-License-Identifier: Apache-2.0

package criconfig

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

// ErrRunAsRoot says that a container that may not run as root would.
var ErrRunAsRoot = errors.New("container has runAsNonRoot and image will run as root")

// Inputs are what a container's configuration needs beyond its pod.
type Inputs struct {
	Pod         *v1.Pod
	Container   *v1.Container
	Kind        sync.Kind
	Attempt     int
	Image       *runtimeapi.Image // as the runtime has it
	Env         []*runtimeapi.KeyValue
	Mounts      []*runtimeapi.Mount
	Devices     []*runtimeapi.Device
	CDIDevices  []*runtimeapi.CDIDevice
	Annotations map[string]string // of device plugins, for the runtime
	MessageFile string            // of the termination message, on the host; mounted at the container's terminationMessagePath
	TargetID    string            // of the container whose processes an ephemeral container shares
	UserNS      *runtimeapi.UserNamespace
}

// Container returns a container's configuration.
func Container(in Inputs, node Node) (*runtimeapi.ContainerConfig, error) {
	container, pod := in.Container, in.Pod
	security, err := containerSecurity(in, node)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for _, kv := range in.Env {
		vars[kv.Key] = string(kv.Value)
	}
	config := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: container.Name, Attempt: uint32(in.Attempt)},
		Image:      &runtimeapi.ImageSpec{Image: in.Image.GetId(), UserSpecifiedImage: container.Image},
		Command:    expandAll(container.Command, vars),
		Args:       expandAll(container.Args, vars),
		WorkingDir: container.WorkingDir,
		Envs:       in.Env,
		Mounts:     slices.Clone(in.Mounts),
		Devices:    in.Devices,
		CDIDevices: in.CDIDevices,
		Labels: map[string]string{
			observed.LabelContainerName: container.Name, observed.LabelPodName: pod.Name,
			observed.LabelPodNamespace: pod.Namespace, observed.LabelPodUID: string(pod.UID),
		},
		Annotations: map[string]string{
			observed.AnnotationHash:          sync.Hash(container),
			observed.AnnotationRestartCount:  strconv.Itoa(in.Attempt),
			observed.AnnotationMessagePath:   container.TerminationMessagePath,
			observed.AnnotationMessagePolicy: string(container.TerminationMessagePolicy),
		},
		LogPath: LogPath(container.Name, in.Attempt),
		Stdin:   container.Stdin, StdinOnce: container.StdinOnce, Tty: container.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{Resources: Resources(pod, container, node), SecurityContext: security},
	}
	if container.Lifecycle != nil && container.Lifecycle.StopSignal != nil {
		config.StopSignal = stopSignal(*container.Lifecycle.StopSignal)
	}
	for name, value := range in.Annotations {
		if _, ours := config.Annotations[name]; !ours {
			config.Annotations[name] = value
		}
	}
	if in.MessageFile != "" && container.TerminationMessagePath != "" {
		config.Annotations[observed.AnnotationMessageFile] = in.MessageFile
		config.Mounts = append(config.Mounts, &runtimeapi.Mount{ContainerPath: container.TerminationMessagePath, HostPath: in.MessageFile})
	}
	return config, nil
}

func expandAll(words []string, vars map[string]string) []string {
	var out []string
	for _, word := range words {
		out = append(out, Expand(word, vars))
	}
	return out
}

// Expand replaces $(NAME) by the variable's value; $$ stands for one $, and a reference to what is not defined stays as it is.
func Expand(s string, vars map[string]string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '$' || i+1 >= len(s) {
			out.WriteByte(s[i])
			i++
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i += 2
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				out.WriteString(s[i : i+2])
				i += 2
				continue
			}
			if value, ok := vars[s[i+2:i+end]]; ok {
				out.WriteString(value)
			} else {
				out.WriteString(s[i : i+end+1])
			}
			i += end + 1
		default:
			out.WriteString(s[i : i+2])
			i += 2
		}
	}
	return out.String()
}

// Resources are a container's cgroup settings.
func Resources(pod *v1.Pod, container *v1.Container, node Node) *runtimeapi.LinuxContainerResources {
	requests, limits := container.Resources.Requests, container.Resources.Limits
	cpu := requests.Cpu().MilliValue()
	if _, requested := requests[v1.ResourceCPU]; !requested {
		cpu = limits.Cpu().MilliValue()
	}
	out := &runtimeapi.LinuxContainerResources{
		CpuShares: cgroups.Shares(cpu), CpuPeriod: cgroups.QuotaPeriod, CpuQuota: cgroups.Quota(limits.Cpu().MilliValue()),
		MemoryLimitInBytes: limits.Memory().Value(),
		OomScoreAdj:        cgroups.OOMScoreAdj(pod, container, node.MemoryBytes),
	}
	for name, quantity := range limits {
		if size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
			out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: hugePageSize(size), Limit: uint64(quantity.Value())})
		}
	}
	sort.Slice(out.HugepageLimits, func(i, j int) bool { return out.HugepageLimits[i].PageSize < out.HugepageLimits[j].PageSize })
	return out
}

// hugePageSize turns Kubernetes' 2Mi into the kernel's 2MB.
func hugePageSize(size string) string { return strings.Replace(size, "i", "B", 1) }

func containerSecurity(in Inputs, node Node) (*runtimeapi.LinuxContainerSecurityContext, error) {
	pod, container := in.Pod, in.Container
	podSecurity, security := pod.Spec.SecurityContext, container.SecurityContext
	if podSecurity == nil {
		podSecurity = &v1.PodSecurityContext{}
	}
	if security == nil {
		security = &v1.SecurityContext{}
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:   Namespaces(pod, in.UserNS),
		Privileged:         security.Privileged != nil && *security.Privileged,
		ReadonlyRootfs:     security.ReadOnlyRootFilesystem != nil && *security.ReadOnlyRootFilesystem,
		NoNewPrivs:         security.AllowPrivilegeEscalation != nil && !*security.AllowPrivilegeEscalation,
		SelinuxOptions:     selinux(or(security.SELinuxOptions, podSecurity.SELinuxOptions)),
		SupplementalGroups: slices.Clone(podSecurity.SupplementalGroups), SupplementalGroupsPolicy: groupsPolicy(podSecurity),
		MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
	}
	if in.TargetID != "" {
		out.NamespaceOptions.Pid, out.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, in.TargetID
	}
	if podSecurity.FSGroup != nil {
		out.SupplementalGroups = append(out.SupplementalGroups, *podSecurity.FSGroup)
	}
	if out.Privileged || security.ProcMount != nil && *security.ProcMount == v1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = nil, nil
	}
	if c := security.Capabilities; c != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, name := range c.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range c.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(name))
		}
	}
	if group := or(security.RunAsGroup, podSecurity.RunAsGroup); group != nil {
		out.RunAsGroup = &runtimeapi.Int64Value{Value: *group}
	}
	user := or(security.RunAsUser, podSecurity.RunAsUser)
	switch {
	case user != nil:
		out.RunAsUser = &runtimeapi.Int64Value{Value: *user}
	case in.Image.GetUid() != nil:
		out.RunAsUser = in.Image.Uid
	default:
		out.RunAsUsername = in.Image.GetUsername()
	}
	if nonRoot := or(security.RunAsNonRoot, podSecurity.RunAsNonRoot); nonRoot != nil && *nonRoot {
		if err := checkNonRoot(container.Name, user, in.Image); err != nil {
			return nil, err
		}
	}
	if out.RunAsGroup != nil && out.RunAsUser == nil && out.RunAsUsername == "" {
		out.RunAsUser = &runtimeapi.Int64Value{Value: 0} // the image says nothing: root
	}
	switch seccomp := or(security.SeccompProfile, podSecurity.SeccompProfile); {
	case out.Privileged:
		out.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case seccomp != nil:
		out.Seccomp = profile(seccomp.Type, seccomp.LocalhostProfile, node.SeccompDir)
	case node.SeccompDefault:
		out.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	default:
		out.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	if apparmor := or(security.AppArmorProfile, podSecurity.AppArmorProfile); apparmor != nil {
		out.Apparmor = appArmor(apparmor)
	}
	return out, nil
}

func appArmor(p *v1.AppArmorProfile) *runtimeapi.SecurityProfile {
	switch {
	case p.Type == v1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
	case p.Type == v1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

func checkNonRoot(name string, user *int64, image *runtimeapi.Image) error {
	switch {
	case user != nil && *user == 0:
		return fmt.Errorf("%w: container %s asks for user 0", ErrRunAsRoot, name)
	case user != nil:
		return nil
	case image.GetUid() != nil && image.Uid.Value == 0, image.GetUid() == nil && image.GetUsername() == "":
		return fmt.Errorf("%w (container %q)", ErrRunAsRoot, name)
	case image.GetUid() == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (container %q)", image.GetUsername(), name)
	}
	return nil
}

func or[T any](first, second *T) *T {
	if first != nil {
		return first
	}
	return second
}

// Paths of /proc and /sys that a container must not see or change.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// stopSignal is CRI's number for a signal's name: SIGRTMIN+1 is SIGNAL_SIGRTMINPLUS1 there. One it does not know leaves the choice to the runtime.
func stopSignal(signal v1.Signal) runtimeapi.Signal {
	name := strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(signal))
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}
