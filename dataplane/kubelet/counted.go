// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// note is told of each call to the runtime: its name as Kubernetes counts it, how long it took, and how it ended.
type note func(operation string, took time.Duration, err error)

// call runs f and notes it.
func call[T any](n note, operation string, f func() (T, error)) (T, error) {
	started := time.Now()
	out, err := f()
	n(operation, time.Since(started), err)
	return out, err
}

func callNothing(n note, operation string, f func() error) error {
	_, err := call(n, operation, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// countedRuntime notes the calls that pods are made of; the others pass through.
type countedRuntime struct {
	internalapi.RuntimeService
	note note
}

func (c countedRuntime) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	return call(c.note, "run_podsandbox", func() (string, error) { return c.RuntimeService.RunPodSandbox(ctx, config, handler) })
}

func (c countedRuntime) StopPodSandbox(ctx context.Context, id string) error {
	return callNothing(c.note, "stop_podsandbox", func() error { return c.RuntimeService.StopPodSandbox(ctx, id) })
}

func (c countedRuntime) RemovePodSandbox(ctx context.Context, id string) error {
	return callNothing(c.note, "remove_podsandbox", func() error { return c.RuntimeService.RemovePodSandbox(ctx, id) })
}

func (c countedRuntime) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	return call(c.note, "podsandbox_status", func() (*runtimeapi.PodSandboxStatusResponse, error) {
		return c.RuntimeService.PodSandboxStatus(ctx, id, verbose)
	})
}

func (c countedRuntime) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	return call(c.note, "list_podsandbox", func() ([]*runtimeapi.PodSandbox, error) { return c.RuntimeService.ListPodSandbox(ctx, filter) })
}

func (c countedRuntime) CreateContainer(ctx context.Context, sandbox string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	return call(c.note, "create_container", func() (string, error) { return c.RuntimeService.CreateContainer(ctx, sandbox, config, sandboxConfig) })
}

func (c countedRuntime) StartContainer(ctx context.Context, id string) error {
	return callNothing(c.note, "start_container", func() error { return c.RuntimeService.StartContainer(ctx, id) })
}

func (c countedRuntime) StopContainer(ctx context.Context, id string, timeout int64) error {
	return callNothing(c.note, "stop_container", func() error { return c.RuntimeService.StopContainer(ctx, id, timeout) })
}

func (c countedRuntime) RemoveContainer(ctx context.Context, id string) error {
	return callNothing(c.note, "remove_container", func() error { return c.RuntimeService.RemoveContainer(ctx, id) })
}

func (c countedRuntime) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return call(c.note, "list_containers", func() ([]*runtimeapi.Container, error) { return c.RuntimeService.ListContainers(ctx, filter) })
}

func (c countedRuntime) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	return call(c.note, "container_status", func() (*runtimeapi.ContainerStatusResponse, error) {
		return c.RuntimeService.ContainerStatus(ctx, id, verbose)
	})
}

func (c countedRuntime) UpdateContainerResources(ctx context.Context, id string, resources *runtimeapi.ContainerResources) error {
	return callNothing(c.note, "update_container", func() error { return c.RuntimeService.UpdateContainerResources(ctx, id, resources) })
}

func (c countedRuntime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	err = callNothing(c.note, "exec_sync", func() error { stdout, stderr, err = c.RuntimeService.ExecSync(ctx, id, cmd, timeout); return err })
	return stdout, stderr, err
}

func (c countedRuntime) ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return call(c.note, "list_podsandbox_stats", func() ([]*runtimeapi.PodSandboxStats, error) {
		return c.RuntimeService.ListPodSandboxStats(ctx, filter)
	})
}

func (c countedRuntime) Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	return call(c.note, "status", func() (*runtimeapi.StatusResponse, error) { return c.RuntimeService.Status(ctx, verbose) })
}

// countedImages does the same for images.
type countedImages struct {
	internalapi.ImageManagerService
	note note
}

func (c countedImages) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	return call(c.note, "pull_image", func() (string, error) { return c.ImageManagerService.PullImage(ctx, image, auth, sandbox) })
}

func (c countedImages) ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return call(c.note, "list_images", func() ([]*runtimeapi.Image, error) { return c.ImageManagerService.ListImages(ctx, filter) })
}

func (c countedImages) ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	return call(c.note, "image_status", func() (*runtimeapi.ImageStatusResponse, error) {
		return c.ImageManagerService.ImageStatus(ctx, image, verbose)
	})
}

func (c countedImages) RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error {
	return callNothing(c.note, "remove_image", func() error { return c.ImageManagerService.RemoveImage(ctx, image) })
}
