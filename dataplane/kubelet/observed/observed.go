// SPDX-License-Identifier: Apache-2.0

// Package observed is what the container runtime says about pods: plain values read from CRI, newest first. Everything the
// kubelet must remember about a container beyond CRI's own fields is in the container's labels and annotations, so that a
// kubelet that starts again reads it back.
package observed

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and annotations of sandboxes and containers. The io.kubernetes names are the ones crictl and log collectors know.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash          = "io.kubernetes.container.hash"
	AnnotationRestartCount  = "io.kubernetes.container.restartCount"
	AnnotationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	AnnotationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationGracePeriod   = "io.kubernetes.pod.terminationGracePeriod"
	AnnotationMessageFile   = "fairlead.io/termination-message-file" // on the host
	AnnotationSource        = "kubernetes.io/config.source"
)

// Pod is everything of one pod that the runtime knows.
type Pod struct {
	UID             types.UID
	Name, Namespace string
	Sandboxes       []Sandbox   // newest first
	Containers      []Container // newest first
}

// Sandbox is one pod sandbox.
type Sandbox struct {
	ID          string
	Attempt     uint32
	Ready       bool
	CreatedAt   time.Time
	IPs         []string // filled by Fetch for a ready sandbox
	HostNetwork bool
	Annotations map[string]string
}

// State is a container's state in the runtime.
type State int

const (
	Created State = iota
	Running
	Exited
	Unknown
)

func (s State) String() string { return [...]string{"created", "running", "exited", "unknown"}[s] }

// Container is one container instance. Fields after Hash are filled by Fetch only.
type Container struct {
	ID        string
	Name      string
	SandboxID string
	Attempt   int
	State     State
	CreatedAt time.Time
	Hash      string

	StartedAt, FinishedAt time.Time
	ExitCode              int32
	Reason, Message       string
	Image                 string // as the pod asked for it
	ImageID               string // digest reference
	LogPath               string
	Annotations           map[string]string
	Resources             *runtimeapi.LinuxContainerResources
	User                  *runtimeapi.LinuxContainerUser
	Mounts                []*runtimeapi.Mount
	StopSignal            runtimeapi.Signal
}

// Ready returns the newest sandbox if it is ready, else nil.
func (p *Pod) Ready() *Sandbox {
	if p != nil && len(p.Sandboxes) > 0 && p.Sandboxes[0].Ready {
		return &p.Sandboxes[0]
	}
	return nil
}

// Newest returns the newest instance of the container, nil when there is none.
func (p *Pod) Newest(name string) *Container {
	if p == nil {
		return nil
	}
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// Previous returns the instance before the newest, nil when there is none.
func (p *Pod) Previous(name string) *Container {
	if p == nil {
		return nil
	}
	seen := false
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			if seen {
				return &p.Containers[i]
			}
			seen = true
		}
	}
	return nil
}

// AnyRunning tells whether a container runs or may run.
func (p *Pod) AnyRunning() bool {
	return p != nil && slices.ContainsFunc(p.Containers, func(c Container) bool { return c.State == Running || c.State == Created })
}

// Fetch reads all of one pod with details. A pod the runtime does not know is an empty Pod.
func Fetch(ctx context.Context, runtime internalapi.RuntimeService, uid types.UID) (*Pod, error) {
	selector := map[string]string{LabelPodUID: string(uid)}
	sandboxes, err := runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of pod %s: %w", uid, err)
	}
	containers, err := runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list containers of pod %s: %w", uid, err)
	}
	pods := assemble(sandboxes, containers)
	pod := pods[uid]
	if pod == nil {
		return &Pod{UID: uid}, nil
	}
	for i := range pod.Sandboxes {
		if !pod.Sandboxes[i].Ready {
			continue
		}
		if err := detailSandbox(ctx, runtime, &pod.Sandboxes[i]); err != nil {
			return nil, err
		}
	}
	kept := pod.Containers[:0]
	for _, container := range pod.Containers {
		found, err := detailContainer(ctx, runtime, &container)
		if err != nil {
			return nil, err
		}
		if found {
			kept = append(kept, container)
		}
	}
	pod.Containers = kept
	return pod, nil
}

// List reads all pods without details.
func List(ctx context.Context, runtime internalapi.RuntimeService) (map[types.UID]*Pod, error) {
	sandboxes, err := runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return assemble(sandboxes, containers), nil
}

func assemble(sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) map[types.UID]*Pod {
	pods := map[types.UID]*Pod{}
	bySandbox := map[string]*Pod{}
	get := func(uid types.UID) *Pod {
		if pods[uid] == nil {
			pods[uid] = &Pod{UID: uid}
		}
		return pods[uid]
	}
	for _, s := range sandboxes {
		if s.Metadata == nil || s.Metadata.Uid == "" {
			continue
		}
		pod := get(types.UID(s.Metadata.Uid))
		pod.Name, pod.Namespace = s.Metadata.Name, s.Metadata.Namespace
		pod.Sandboxes = append(pod.Sandboxes, Sandbox{
			ID: s.Id, Attempt: s.Metadata.Attempt, Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
			CreatedAt: time.Unix(0, s.CreatedAt), Annotations: s.Annotations,
		})
		bySandbox[s.Id] = pod
	}
	for _, c := range containers {
		pod := bySandbox[c.PodSandboxId]
		if uid := c.Labels[LabelPodUID]; pod == nil && uid != "" {
			pod = get(types.UID(uid))
			pod.Name, pod.Namespace = c.Labels[LabelPodName], c.Labels[LabelPodNamespace]
		}
		if pod == nil || c.Metadata == nil {
			continue
		}
		pod.Containers = append(pod.Containers, Container{
			ID: c.Id, Name: c.Metadata.Name, SandboxID: c.PodSandboxId, Attempt: int(c.Metadata.Attempt), State: stateOf(c.State),
			CreatedAt: time.Unix(0, c.CreatedAt), Hash: c.Annotations[AnnotationHash],
		})
	}
	for _, pod := range pods {
		slices.SortStableFunc(pod.Sandboxes, func(a, b Sandbox) int {
			return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
		})
		slices.SortStableFunc(pod.Containers, func(a, b Container) int {
			return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Attempt, a.Attempt))
		})
	}
	return pods
}

func detailSandbox(ctx context.Context, runtime internalapi.RuntimeService, sandbox *Sandbox) error {
	response, err := runtime.PodSandboxStatus(ctx, sandbox.ID, false)
	if IsNotFound(err) {
		sandbox.Ready = false
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of sandbox %s: %w", sandbox.ID, err)
	}
	s := response.Status
	sandbox.Ready = s.State == runtimeapi.PodSandboxState_SANDBOX_READY
	sandbox.HostNetwork = s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
	if network := s.GetNetwork(); network != nil && network.Ip != "" {
		sandbox.IPs = append(sandbox.IPs, network.Ip)
		for _, ip := range network.AdditionalIps {
			sandbox.IPs = append(sandbox.IPs, ip.Ip)
		}
	}
	return nil
}

func detailContainer(ctx context.Context, runtime internalapi.RuntimeService, container *Container) (found bool, err error) {
	response, err := runtime.ContainerStatus(ctx, container.ID, false)
	if IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("status of container %s: %w", container.ID, err)
	}
	s := response.Status
	container.State = stateOf(s.State)
	container.StartedAt, container.FinishedAt = timeOf(s.StartedAt), timeOf(s.FinishedAt)
	container.ExitCode, container.Reason, container.Message = s.ExitCode, s.Reason, s.Message
	container.Image, container.ImageID = s.GetImage().GetImage(), s.ImageRef
	if asked := s.GetImage().GetUserSpecifiedImage(); asked != "" {
		container.Image = asked
	}
	container.LogPath, container.Annotations, container.Mounts = s.LogPath, s.Annotations, s.Mounts
	container.Resources, container.User = s.GetResources().GetLinux(), s.GetUser().GetLinux()
	container.StopSignal = s.StopSignal
	if count, err := strconv.Atoi(s.Annotations[AnnotationRestartCount]); err == nil {
		container.Attempt = count
	}
	return true, nil
}

func timeOf(nanoseconds int64) time.Time {
	if nanoseconds <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

func stateOf(state runtimeapi.ContainerState) State {
	switch state {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return Exited
	}
	return Unknown
}

// IsNotFound tells that the runtime knows nothing of what was named.
func IsNotFound(err error) bool { return err != nil && status.Code(err) == codes.NotFound }
