// SPDX-License-Identifier: Apache-2.0

// Package status says in the API's words how a pod is, and writes it there.
//
// Generate is pure: what the runtime says, what the worker remembers and what probes found, to a PodStatus. Writer sends the newest
// status of each pod, and deletes pods that have ended.
package status

import (
	"fmt"
	"os"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

// Input is what a status is made of.
type Input struct {
	Pod       *v1.Pod // with the status the API has
	Observed  *observed.Pod
	Before    *v1.PodStatus // the last one generated, which the API may not show yet; nil at first
	Now       time.Time
	StartTime time.Time
	HostIPs   []string
	Ending    *sync.Ending
	Ended     bool // nothing runs any more
	// Waiting is why a container does not run, by name.
	Waiting map[string]v1.ContainerStateWaiting
	// Started and Ready are by container id; a container without a readiness probe is ready when it has started.
	Started, Ready func(container *v1.Container, id string) bool
	// Health is how the devices of a container are, nothing when it has none (any more). May be nil.
	Health func(*v1.Pod, *v1.Container) []v1.ResourceStatus
	// RuntimeName prefixes container ids ("containerd").
	RuntimeName string
	// Message returns a container's termination message.
	Message func(*observed.Container) string
}

// Generate returns the pod's status.
func Generate(in Input) v1.PodStatus {
	pod := in.Pod
	out := *pod.Status.DeepCopy()
	out.ObservedGeneration = pod.Generation
	out.QOSClass = cgroups.QOSClass(pod)
	if !in.StartTime.IsZero() && out.StartTime == nil {
		start := metav1.NewTime(in.StartTime)
		out.StartTime = &start
	}
	out.InitContainerStatuses = in.statuses(pod.Spec.InitContainers, pod.Status.InitContainerStatuses, sync.Init)
	out.ContainerStatuses = in.statuses(pod.Spec.Containers, pod.Status.ContainerStatuses, sync.Regular)
	ephemeral := make([]v1.Container, 0, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	out.EphemeralContainerStatuses = in.statuses(ephemeral, pod.Status.EphemeralContainerStatuses, sync.Ephemeral)
	out.Phase = in.phase(&out)
	if in.Ending != nil && in.Ending.Reason != "" {
		out.Reason, out.Message = in.Ending.Reason, in.Ending.Message
	}
	in.addresses(&out)
	in.conditions(&out)
	return out
}

func (in Input) addresses(out *v1.PodStatus) {
	if len(in.HostIPs) > 0 {
		out.HostIP, out.HostIPs = in.HostIPs[0], nil
		for _, ip := range in.HostIPs {
			out.HostIPs = append(out.HostIPs, v1.HostIP{IP: ip})
		}
	}
	ips := PodIPs(in.Pod, in.Observed, in.HostIPs)
	if len(ips) > 0 {
		out.PodIP, out.PodIPs = ips[0], nil
		for _, ip := range ips {
			out.PodIPs = append(out.PodIPs, v1.PodIP{IP: ip})
		}
	}
}

// PodIPs are the pod's addresses: its sandbox's, or the node's for a pod in the host's network.
func PodIPs(pod *v1.Pod, seen *observed.Pod, hostIPs []string) []string {
	sandbox := seen.Ready()
	switch {
	case sandbox == nil:
		return nil
	case pod.Spec.HostNetwork:
		return hostIPs
	}
	return sandbox.IPs
}

// statuses returns the status of each container of one kind, in the order of the spec.
func (in Input) statuses(containers []v1.Container, old []v1.ContainerStatus, kind sync.Kind) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range containers {
		container := &containers[i]
		var before *v1.ContainerStatus
		if j := slices.IndexFunc(old, func(s v1.ContainerStatus) bool { return s.Name == container.Name }); j >= 0 {
			before = &old[j]
		}
		own := kind
		if kind == sync.Init && sync.IsSidecar(container) {
			own = sync.Sidecar
		}
		out = append(out, in.container(container, own, before))
	}
	return out
}

func (in Input) container(container *v1.Container, kind sync.Kind, before *v1.ContainerStatus) v1.ContainerStatus {
	out := v1.ContainerStatus{Name: container.Name, Image: container.Image, AllocatedResourcesStatus: in.health(container, before)}
	newest, previous := in.Observed.Newest(container.Name), in.Observed.Previous(container.Name)
	waiting, isWaiting := in.Waiting[container.Name]
	started := false
	out.Started = &started
	if newest == nil {
		return in.unseen(container, out, before, waiting, isWaiting)
	}
	out.RestartCount = int32(newest.Attempt)
	out.ContainerID = in.RuntimeName + "://" + newest.ID
	out.Image, out.ImageID = newest.Image, newest.ImageID
	if out.Image == "" {
		out.Image = container.Image
	}
	if previous != nil && previous.State == observed.Exited {
		out.LastTerminationState = v1.ContainerState{Terminated: in.terminated(previous, before)}
	} else if before != nil && before.LastTerminationState.Terminated != nil {
		out.LastTerminationState = before.LastTerminationState
	}
	switch newest.State {
	case observed.Running:
		out.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(newest.StartedAt)}
		started = kind == sync.Regular || kind == sync.Sidecar
		started = started && in.Started(container, newest.ID)
		out.Ready = in.Ready(container, newest.ID) && (started || kind == sync.Init || kind == sync.Ephemeral)
		if kind == sync.Init || kind == sync.Ephemeral {
			out.Ready = false
		}
	case observed.Created:
		out.State.Waiting = &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
		if isWaiting {
			out.State.Waiting = &waiting
		}
	case observed.Unknown:
		out.State.Terminated = &v1.ContainerStateTerminated{
			ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated", ContainerID: out.ContainerID,
		}
	default:
		out.State.Terminated = in.terminated(newest, before)
		out.Ready = kind == sync.Init && newest.ExitCode == 0
		if isWaiting && in.Ending == nil { // it will start again: the end is the last state
			out.LastTerminationState = v1.ContainerState{Terminated: out.State.Terminated}
			out.State = v1.ContainerState{Waiting: &waiting}
		}
	}
	in.resources(container, newest, &out, before)
	out.VolumeMounts = mountStatuses(container)
	if newest.User != nil && newest.State == observed.Running {
		out.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: newest.User.Uid, GID: newest.User.Gid, SupplementalGroups: newest.User.SupplementalGroups}}
	}
	if container.Lifecycle != nil && container.Lifecycle.StopSignal != nil {
		out.StopSignal = container.Lifecycle.StopSignal
	}
	return out
}

// health is how the container's devices are, or last were: after its end that may be the reason.
func (in Input) health(container *v1.Container, before *v1.ContainerStatus) []v1.ResourceStatus {
	if in.Health != nil {
		if now := in.Health(in.Pod, container); now != nil {
			return now
		}
	}
	if before != nil {
		return before.AllocatedResourcesStatus
	}
	return nil
}

// unseen is the status of a container the runtime has no instance of: not started yet, or lost.
func (in Input) unseen(container *v1.Container, out v1.ContainerStatus, before *v1.ContainerStatus, waiting v1.ContainerStateWaiting, isWaiting bool) v1.ContainerStatus {
	if before != nil {
		out.RestartCount, out.LastTerminationState = before.RestartCount, before.LastTerminationState
		if before.State.Terminated != nil {
			if in.Ending != nil {
				return *before
			}
			out.LastTerminationState = v1.ContainerState{Terminated: before.State.Terminated}
		}
		if before.State.Running != nil && in.Ending != nil && in.Ended {
			out.ContainerID, out.ImageID = before.ContainerID, before.ImageID
			out.State.Terminated = &v1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown",
				Message: "The container could not be located when the pod was terminated", ContainerID: before.ContainerID}
			return out
		}
	}
	reason := "ContainerCreating"
	if len(in.Pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	out.State.Waiting = &v1.ContainerStateWaiting{Reason: reason}
	if isWaiting {
		out.State.Waiting = &waiting
	}
	return out
}

// terminated is the end of c. Its message stays when the file it came from is removed, as it is after a pod's end.
func (in Input) terminated(c *observed.Container, before *v1.ContainerStatus) *v1.ContainerStateTerminated {
	out := &v1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
		StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt), ContainerID: in.RuntimeName + "://" + c.ID,
	}
	if c.StartedAt.IsZero() {
		out.StartedAt = metav1.Time{}
	}
	if c.FinishedAt.IsZero() {
		out.FinishedAt = metav1.Time{}
	}
	if in.Message != nil {
		if message := in.Message(c); message != "" {
			out.Message = message
		}
	}
	if out.Message == "" {
		out.Message = in.toldBefore(before, out.ContainerID)
	}
	return out
}

// toldBefore is the message that an earlier status has for the end of the container with this id.
func (in Input) toldBefore(before *v1.ContainerStatus, id string) string {
	var known []v1.ContainerStatus
	if before != nil {
		known = append(known, *before)
	}
	if in.Before != nil {
		known = slices.Concat(known, in.Before.InitContainerStatuses, in.Before.ContainerStatuses, in.Before.EphemeralContainerStatuses)
	}
	for _, s := range known {
		for _, end := range []*v1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if end != nil && end.ContainerID == id && end.Message != "" {
				return end.Message
			}
		}
	}
	return ""
}

// resources shows what the runtime really gives a running container.
func (in Input) resources(container *v1.Container, c *observed.Container, out *v1.ContainerStatus, before *v1.ContainerStatus) {
	if len(container.Resources.Requests) > 0 {
		out.AllocatedResources = container.Resources.Requests.DeepCopy()
	}
	actual := container.Resources.DeepCopy()
	actual.Claims = nil
	if c.State != observed.Running || c.Resources == nil {
		out.Resources = actual
		return
	}
	apply(actual, c.Resources)
	out.Resources = actual
}

func apply(actual *v1.ResourceRequirements, linux *runtimeapi.LinuxContainerResources) {
	if limit, ok := actual.Limits[v1.ResourceMemory]; ok && linux.MemoryLimitInBytes > 0 && limit.Value() != linux.MemoryLimitInBytes {
		actual.Limits[v1.ResourceMemory] = *resource.NewQuantity(linux.MemoryLimitInBytes, resource.BinarySI)
	}
	if limit, ok := actual.Limits[v1.ResourceCPU]; ok && linux.CpuQuota > 0 && linux.CpuPeriod > 0 && cgroups.Quota(limit.MilliValue()) != linux.CpuQuota {
		actual.Limits[v1.ResourceCPU] = *resource.NewMilliQuantity(linux.CpuQuota*1000/linux.CpuPeriod, resource.DecimalSI)
	}
	if request, ok := actual.Requests[v1.ResourceCPU]; ok && linux.CpuShares > 0 && cgroups.Shares(request.MilliValue()) != linux.CpuShares {
		actual.Requests[v1.ResourceCPU] = *resource.NewMilliQuantity((linux.CpuShares*1000+1023)/1024, resource.DecimalSI)
	}
}

func mountStatuses(container *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for i := range container.VolumeMounts {
		mount := &container.VolumeMounts[i]
		s := v1.VolumeMountStatus{Name: mount.Name, MountPath: mount.MountPath, ReadOnly: mount.ReadOnly}
		if mount.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if mount.RecursiveReadOnly != nil && *mount.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

// phase sums the containers up. A phase that is final stays.
func (in Input) phase(out *v1.PodStatus) v1.PodPhase {
	old := in.Pod.Status.Phase
	if old == v1.PodFailed || old == v1.PodSucceeded {
		return old
	}
	failed := false
	for _, list := range [][]v1.ContainerStatus{out.ContainerStatuses} {
		for i := range list {
			if t := list[i].State.Terminated; t != nil && t.ExitCode != 0 {
				failed = true
			}
		}
	}
	if in.Ending != nil && in.Ending.Reason != "" && (in.Ended || in.Ending.Reason != "") && !in.Ending.Remove {
		return v1.PodFailed
	}
	if sync.FailedInit(in.Pod, in.Observed) != nil {
		return v1.PodFailed
	}
	if sync.Finished(in.Pod, in.Observed) && !in.Observed.AnyRunning() || in.Ending != nil && in.Ended {
		switch {
		case failed:
			return v1.PodFailed
		case allTerminated(out.ContainerStatuses):
			return v1.PodSucceeded
		case in.Ended:
			return v1.PodFailed
		}
	}
	for i := range out.ContainerStatuses {
		if s := &out.ContainerStatuses[i]; s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return v1.PodRunning
		}
	}
	return v1.PodPending
}

func allTerminated(list []v1.ContainerStatus) bool {
	return !slices.ContainsFunc(list, func(s v1.ContainerStatus) bool { return s.State.Terminated == nil })
}

const maxMessage = 4096

// ReadMessage returns a terminated container's message: what it wrote to its message file, else the end of its log if it failed and asked
// for that.
func ReadMessage(c *observed.Container) string {
	if c.State != observed.Exited {
		return ""
	}
	if name := c.Annotations[observed.AnnotationMessageFile]; name != "" {
		if data := tail(name, maxMessage); len(data) > 0 {
			return string(data)
		}
	}
	if c.Annotations[observed.AnnotationMessagePolicy] == string(v1.TerminationMessageFallbackToLogsOnError) && c.ExitCode != 0 {
		return LogTail(c.LogPath)
	}
	return ""
}

func tail(name string, size int64) []byte {
	file, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	buffer := make([]byte, min(size, info.Size()))
	n, _ := file.ReadAt(buffer, info.Size()-int64(len(buffer)))
	return buffer[:n]
}

// String is for logs.
func String(s *v1.PodStatus) string { return fmt.Sprintf("%s %s", s.Phase, s.Reason) }
