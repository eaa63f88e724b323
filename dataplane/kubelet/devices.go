// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

// prepare gets the devices a pod asks for, and its resource claims.
func (k *kubelet) prepare(ctx context.Context, pod *v1.Pod) error {
	if err := k.devices.Allocate(ctx, pod, k.active); err != nil {
		return &podworker.Refusal{Reason: "UnexpectedAdmissionError", Message: err.Error()}
	}
	return k.claims.Prepare(ctx, pod)
}

// active tells whether a pod has not ended.
func (k *kubelet) active(uid types.UID) bool {
	view, known := k.workers.View(uid)
	return known && !view.Ended
}

// release takes back what a pod had.
func (k *kubelet) release(ctx context.Context, uid types.UID) error {
	k.devices.Release(uid)
	k.ranges.Release(uid)
	return k.claims.Release(ctx, uid)
}

// containerDevices is what device plugins and resource claims give a container that starts.
func (k *kubelet) containerDevices(ctx context.Context, pod *v1.Pod, container *v1.Container) (out podworker.Devices, err error) {
	given, err := k.devices.Container(ctx, pod, container)
	if err != nil {
		return out, err
	}
	out.Env, out.Annotations = given.Envs, given.Annotations
	for _, m := range given.Mounts {
		out.Mounts = append(out.Mounts, &runtimeapi.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly})
	}
	for _, d := range given.Devices {
		out.Devices = append(out.Devices, &runtimeapi.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
	}
	for _, d := range given.CdiDevices {
		out.CDI = append(out.CDI, &runtimeapi.CDIDevice{Name: d.Name})
	}
	claimed, err := k.claims.Container(pod, container)
	if err != nil {
		return out, err
	}
	for _, d := range claimed {
		for _, id := range d.CDI {
			if !slices.ContainsFunc(out.CDI, func(known *runtimeapi.CDIDevice) bool { return known.Name == id }) {
				out.CDI = append(out.CDI, &runtimeapi.CDIDevice{Name: id})
			}
		}
	}
	return out, nil
}

// deviceHealth is how the devices are that a container has of device plugins and resource claims.
func (k *kubelet) deviceHealth(pod *v1.Pod, container *v1.Container) []v1.ResourceStatus {
	return append(k.devices.Health(pod.UID, container.Name), k.claims.Health(pod, container)...)
}

// claimed is what resource claims give a container, for those who ask who has what.
func (k *kubelet) claimed(pod *v1.Pod, container *v1.Container) (out []*podresources.DynamicResource) {
	given, err := k.claims.Container(pod, container)
	if err != nil {
		return nil // not yet
	}
	for _, d := range given {
		resource := &podresources.ClaimResource{DriverName: d.Driver, PoolName: d.Pool, DeviceName: d.Device.Device}
		for _, id := range d.CDI {
			resource.CdiDevices = append(resource.CdiDevices, &podresources.CDIDevice{Name: id})
		}
		if last := len(out) - 1; last >= 0 && out[last].ClaimName == d.Claim {
			out[last].ClaimResources = append(out[last].ClaimResources, resource)
			continue
		}
		out = append(out, &podresources.DynamicResource{ClaimName: d.Claim, ClaimNamespace: d.Namespace, ClaimResources: []*podresources.ClaimResource{resource}})
	}
	return out
}

// userNamespace is a pod's own user namespace, nil for pods in the host's.
func (k *kubelet) userNamespace(pod *v1.Pod) (*runtimeapi.UserNamespace, error) {
	if pod.Spec.HostUsers == nil || *pod.Spec.HostUsers {
		return nil, nil
	}
	handler := ""
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		var err error
		if handler, err = k.runtimeHandler(*class); err != nil {
			return nil, err
		}
	}
	if !k.health.userNamespaces(handler) {
		return nil, fmt.Errorf("hostUsers: false needs a container runtime whose handler %q can make user namespaces with mapped mounts: runc 1.2 or newer "+
			"(or crun 1.9) and Linux 6.3; this node's cannot", handler)
	}
	return k.ranges.For(pod)
}
