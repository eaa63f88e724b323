// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Allocate gives the pod's containers the devices their limits ask for; what they have already stays theirs. An error means that the pod cannot
// run here. active tells which pods have not ended: the devices of others are free.
func (m *Manager) Allocate(ctx context.Context, pod *v1.Pod, active func(types.UID) bool) error {
	if !m.wants(pod) {
		return nil
	}
	m.allocating.Lock()
	defer m.allocating.Unlock()
	m.collect(active)
	// Devices of init containers that have ended when the next container starts are used again.
	reusable := map[string][]string{}
	for i := range pod.Spec.InitContainers {
		container := &pod.Spec.InitContainers[i]
		given, err := m.allocate(ctx, pod, container, reusable)
		if err != nil {
			return err
		}
		for name, a := range given {
			reusable[name] = slices.DeleteFunc(reusable[name], func(id string) bool { return slices.Contains(a.Devices, id) })
			if container.RestartPolicy == nil || *container.RestartPolicy != v1.ContainerRestartPolicyAlways {
				reusable[name] = append(reusable[name], a.Devices...)
			}
		}
	}
	for i := range pod.Spec.Containers {
		given, err := m.allocate(ctx, pod, &pod.Spec.Containers[i], reusable)
		if err != nil {
			return err
		}
		for name, a := range given {
			reusable[name] = slices.DeleteFunc(reusable[name], func(id string) bool { return slices.Contains(a.Devices, id) })
		}
	}
	return m.checkpoint()
}

// wants tells whether a pod asks for devices of a plugin.
func (m *Manager) wants(pod *v1.Pod) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for name := range list[i].Resources.Limits {
				if m.endpoint(name) != nil {
					return true
				}
			}
		}
	}
	return false
}

// collect takes devices back from pods that are not active any more.
func (m *Manager) collect(active func(types.UID) bool) {
	m.mu.Lock()
	holders := slices.Collect(maps.Keys(m.given))
	m.mu.Unlock()
	for _, uid := range holders {
		if !active(uid) {
			m.mu.Lock()
			delete(m.given, uid)
			m.mu.Unlock()
		}
	}
}

// allocate serves one container and returns what it has; m.allocating is held.
func (m *Manager) allocate(ctx context.Context, pod *v1.Pod, container *v1.Container, reusable map[string][]string) (map[string]*allocation, error) {
	given := m.of(pod.UID, container.Name)
	if given == nil {
		given = map[string]*allocation{}
	}
	for _, name := range slices.Sorted(maps.Keys(container.Resources.Limits)) {
		limit := container.Resources.Limits[name]
		needed, e, had := int(limit.Value()), m.endpoint(name), given[string(name)]
		if e == nil || needed == 0 || had != nil && len(had.Devices) == needed {
			continue
		}
		chosen, err := m.choose(ctx, e, needed, reusable[string(name)])
		if err != nil {
			return nil, fmt.Errorf("Allocate failed due to %w, which is unexpected", err)
		}
		e = m.endpoint(name) // it may have come back meanwhile
		calling, cancel := context.WithTimeout(ctx, callTimeout)
		response, err := e.client.Allocate(calling, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: chosen}}})
		cancel()
		if err == nil && len(response.ContainerResponses) != 1 {
			err = fmt.Errorf("%d answers to one request", len(response.ContainerResponses))
		}
		if err != nil {
			return nil, fmt.Errorf("Allocate failed due to the device plugin of %s: %w, which is unexpected", name, err)
		}
		given[string(name)] = &allocation{Devices: chosen, Response: response.ContainerResponses[0]}
		m.mu.Lock()
		if m.given[pod.UID] == nil {
			m.given[pod.UID] = map[string]map[string]*allocation{}
		}
		m.given[pod.UID][container.Name] = maps.Clone(given)
		m.mu.Unlock()
	}
	return given, nil
}

// choose picks devices: those that can be used again first, then what the plugin prefers, else in the order of their names.
func (m *Manager) choose(ctx context.Context, e *endpoint, needed int, reusable []string) ([]string, error) {
	available, usable := m.free(e)
	for !usable && time.Since(m.started) < startGrace && ctx.Err() == nil {
		select {
		case <-time.After(startPoll):
		case <-ctx.Done():
		}
		if now := m.endpoint(v1.ResourceName(e.resource)); now != nil {
			e = now
		}
		available, usable = m.free(e)
	}
	chosen := slices.Clone(reusable[:min(len(reusable), needed)])
	switch {
	case !usable:
		return nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", e.resource)
	case len(chosen)+len(available) < needed:
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", e.resource, needed, len(chosen)+len(available))
	}
	if len(chosen) < needed && e.options.GetGetPreferredAllocationAvailable() {
		calling, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		response, err := e.client.GetPreferredAllocation(calling, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{
			{AvailableDeviceIDs: slices.Concat(chosen, available), MustIncludeDeviceIDs: chosen, AllocationSize: int32(needed)},
		}})
		if err != nil {
			return nil, fmt.Errorf("preference of the device plugin of %s: %w", e.resource, err)
		}
		for _, one := range response.ContainerResponses {
			// A hint: what is not free is not taken.
			available = append(slices.DeleteFunc(one.DeviceIDs, func(id string) bool { return !slices.Contains(available, id) }), available...)
		}
	}
	for _, id := range available {
		if len(chosen) < needed && !slices.Contains(chosen, id) {
			chosen = append(chosen, id)
		}
	}
	return chosen, nil
}

// free lists healthy devices that nobody has, in order, and tells whether the plugin can be asked for them.
func (m *Manager) free(e *endpoint) (ids []string, usable bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := map[string]bool{}
	for _, containers := range m.given {
		for _, resources := range containers {
			if a := resources[e.resource]; a != nil {
				for _, id := range a.Devices {
					taken[id] = true
				}
			}
		}
	}
	for id, d := range e.devices {
		if d.Health == pluginapi.Healthy && !taken[id] {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, e.client != nil && e.gone.IsZero() && (e.watched || len(ids) > 0)
}
