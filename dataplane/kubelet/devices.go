// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

// prepare gets the devices a pod asks for.
func (k *kubelet) prepare(ctx context.Context, pod *v1.Pod) error {
	if err := k.devices.Allocate(ctx, pod, k.active); err != nil {
		return &podworker.Refusal{Reason: "UnexpectedAdmissionError", Message: err.Error()}
	}
	return nil
}

// active tells whether a pod has not ended.
func (k *kubelet) active(uid types.UID) bool {
	view, known := k.workers.View(uid)
	return known && !view.Ended
}

// release takes back what a pod had.
func (k *kubelet) release(_ context.Context, uid types.UID) error {
	k.devices.Release(uid)
	k.ranges.Release(uid)
	return nil
}

// containerDevices is what device plugins give a container that starts.
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
	return out, nil
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
