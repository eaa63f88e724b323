// SPDX-License-Identifier: Apache-2.0

// Package devices gives containers the devices of device plugins (Kubernetes' device plugin API v1beta1), and tells monitoring agents who has which
// (pod resources API v1).
//
//	plugin ──Register──▶ Manager ──ListAndWatch──▶ devices by resource ──▶ the node's capacity
//	pod is admitted ──▶ Allocate: healthy free devices, the plugin's preference ──▶ checkpoint ──▶ Container: what CRI gets
//
// Which container has which device, and what the plugin said of it, is in a checkpoint that is written before the pod may start: an agent that was
// killed gives nothing out twice.
package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/fairlead/fairlead/dataplane/kubelet/plugins"
)

const (
	callTimeout = 30 * time.Second
	// A plugin that is gone may come back, as when it is updated: until then none of its devices is healthy, and after this the node has none.
	endpointGrace = 5 * time.Minute
	// Plugins see that an agent started again and register within a moment: a pod that needs one waits for it this long after the start.
	startGrace = 15 * time.Second
	startPoll  = 50 * time.Millisecond
)

// Manager keeps devices. Build it with New. Safe for concurrent use.
type Manager struct {
	dir     string
	changed func()          // the node's capacity
	wake    func(types.UID) // a pod whose devices' health may have changed
	ctx     context.Context
	running sync.WaitGroup
	started time.Time

	allocating sync.Mutex // one allocation at a time
	writing    sync.Mutex // one checkpoint at a time

	mu        sync.Mutex
	endpoints map[string]*endpoint // by resource
	given     map[types.UID]map[string]map[string]*allocation
}

// endpoint is one plugin's resource.
type endpoint struct {
	resource string
	client   pluginapi.DevicePluginClient // nil when the plugin has not come back since the agent's start
	options  *pluginapi.DevicePluginOptions
	stop     context.CancelFunc
	devices  map[string]*pluginapi.Device
	watched  bool      // the plugin has sent its devices
	gone     time.Time // when the plugin's stream ended; zero while it runs
}

// allocation is what one container has of one resource.
type allocation struct {
	Devices  []string                             `json:"devices"`
	Response *pluginapi.ContainerAllocateResponse `json:"response"`
}

// New reads the checkpoint below dir. Plugins are watched until ctx ends; changed is called when the devices of the node change, wake for
// each pod that has some of them. A checkpoint that cannot be read is an error beside a manager that works.
func New(ctx context.Context, dir string, changed func(), wake func(types.UID)) (*Manager, error) {
	m := &Manager{dir: dir, changed: changed, wake: wake, ctx: ctx, endpoints: map[string]*endpoint{}, started: time.Now()}
	err := os.MkdirAll(dir, 0o750)
	if err != nil {
		err = fmt.Errorf("device plugins: %w", err)
	}
	before, readErr := readCheckpoint(filepath.Join(dir, checkpointFile))
	m.given = before.Given
	for name, ids := range before.Registered {
		e := &endpoint{resource: name, devices: map[string]*pluginapi.Device{}, gone: time.Now()}
		for _, id := range ids {
			e.devices[id] = &pluginapi.Device{ID: id, Health: pluginapi.Unhealthy}
		}
		m.endpoints[name] = e
	}
	return m, errors.Join(err, readErr)
}

// add takes a plugin into use and watches its devices. An older plugin of the resource is replaced.
func (m *Manager) add(socket, name string, options *pluginapi.DevicePluginOptions) error {
	if !extended(name) {
		return fmt.Errorf("resource name %q is not an extended resource: want DOMAIN/NAME outside kubernetes.io", name)
	}
	connection, err := plugins.Dial(socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(m.ctx)
	e := &endpoint{resource: name, client: pluginapi.NewDevicePluginClient(connection), options: options, stop: cancel, devices: map[string]*pluginapi.Device{}}
	m.mu.Lock()
	if old := m.endpoints[name]; old != nil {
		if old.stop != nil {
			old.stop()
		}
		e.devices = unhealthy(old.devices) // until the new one says otherwise
	}
	m.endpoints[name] = e
	m.mu.Unlock()
	m.running.Go(func() {
		defer connection.Close()
		err := m.watch(ctx, e)
		if ctx.Err() == nil {
			klog.FromContext(ctx).Info("A device plugin is gone", "resource", name, "err", err)
		}
		m.ended(e)
	})
	return nil
}

// extended tells whether a resource may come from a device plugin.
func extended(name string) bool {
	domain, rest, ok := strings.Cut(name, "/")
	return ok && domain != "" && rest != "" && !strings.Contains(rest, "/") && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") &&
		!strings.HasPrefix(name, v1.DefaultResourceRequestsPrefix)
}

func (m *Manager) watch(ctx context.Context, e *endpoint) error {
	stream, err := e.client.ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		devices := map[string]*pluginapi.Device{}
		for _, d := range response.Devices {
			devices[d.ID] = d
		}
		m.mu.Lock()
		same := slices.Equal(slices.Sorted(maps.Keys(devices)), slices.Sorted(maps.Keys(e.devices)))
		e.devices, e.watched = devices, true
		m.mu.Unlock()
		if !same {
			if err := m.checkpoint(); err != nil {
				klog.FromContext(ctx).Error(err, "Devices of a plugin", "resource", e.resource)
			}
		}
		m.tell(e.resource)
	}
}

// tell says that the devices of a resource changed.
func (m *Manager) tell(name string) {
	m.changed()
	var pods []types.UID
	m.mu.Lock()
	for uid, containers := range m.given {
		for _, resources := range containers {
			if resources[name] != nil {
				pods = append(pods, uid)
				break
			}
		}
	}
	m.mu.Unlock()
	for _, uid := range pods {
		m.wake(uid)
	}
}

// Health says how the devices are that a container has, by resource; those of a plugin that is not there are unknown.
func (m *Manager) Health(uid types.UID, container string) (out []v1.ResourceStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	given := m.given[uid][container]
	for _, name := range slices.Sorted(maps.Keys(given)) {
		e, status := m.endpoints[name], v1.ResourceStatus{Name: v1.ResourceName(name)}
		for _, id := range given[name].Devices {
			health := v1.ResourceHealthStatusUnknown
			if e != nil && e.watched && e.gone.IsZero() {
				if d := e.devices[id]; d != nil && d.Health == pluginapi.Healthy {
					health = v1.ResourceHealthStatusHealthy
				} else if d != nil {
					health = v1.ResourceHealthStatusUnhealthy
				}
			}
			status.Resources = append(status.Resources, v1.ResourceHealth{ResourceID: v1.ResourceID(id), Health: health})
		}
		out = append(out, status)
	}
	return out
}

// ended says that a plugin's stream is over: its devices cannot be given out.
func (m *Manager) ended(e *endpoint) {
	m.mu.Lock()
	current := m.endpoints[e.resource] == e
	if current {
		e.gone, e.devices = time.Now(), unhealthy(e.devices)
	}
	m.mu.Unlock()
	if current && m.ctx.Err() == nil {
		m.tell(e.resource)
	}
}

func unhealthy(devices map[string]*pluginapi.Device) map[string]*pluginapi.Device {
	out := map[string]*pluginapi.Device{}
	for id, d := range devices {
		out[id] = &pluginapi.Device{ID: d.ID, Health: pluginapi.Unhealthy, Topology: d.Topology}
	}
	return out
}

// Capacity is how many devices the node has of each resource, and how many are healthy; zero of a resource whose plugin has been gone for long.
func (m *Manager) Capacity() (capacity, allocatable v1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = v1.ResourceList{}, v1.ResourceList{}
	for name, e := range m.endpoints {
		all, healthy := int64(len(e.devices)), int64(0)
		for _, d := range e.devices {
			if d.Health == pluginapi.Healthy {
				healthy++
			}
		}
		if !e.gone.IsZero() && time.Since(e.gone) > endpointGrace {
			all = 0
		}
		capacity[v1.ResourceName(name)] = *resource.NewQuantity(all, resource.DecimalSI)
		allocatable[v1.ResourceName(name)] = *resource.NewQuantity(healthy, resource.DecimalSI)
	}
	return capacity, allocatable
}

// of is what a container has, by resource.
func (m *Manager) of(uid types.UID, container string) map[string]*allocation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.given[uid][container])
}

func (m *Manager) endpoint(name v1.ResourceName) *endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.endpoints[string(name)]
}

// Has tells whether a resource is a device plugin's.
func (m *Manager) Has(name v1.ResourceName) bool { return m.endpoint(name) != nil }

// Release takes a pod's devices back.
func (m *Manager) Release(uid types.UID) {
	m.mu.Lock()
	_, had := m.given[uid]
	delete(m.given, uid)
	m.mu.Unlock()
	if !had {
		return
	}
	if err := m.checkpoint(); err != nil { // they stay taken after the next start, until then-unknown pods are collected
		klog.FromContext(m.ctx).Error(err, "Devices of a pod that ended", "uid", uid)
	}
}

// Container returns what plugins gave the container, in one, after telling those plugins that want to know that it starts.
func (m *Manager) Container(ctx context.Context, pod *v1.Pod, container *v1.Container) (*pluginapi.ContainerAllocateResponse, error) {
	out := &pluginapi.ContainerAllocateResponse{Envs: map[string]string{}, Annotations: map[string]string{}}
	given := m.of(pod.UID, container.Name)
	for _, name := range slices.Sorted(maps.Keys(container.Resources.Limits)) {
		limit := container.Resources.Limits[name]
		e, a := m.endpoint(name), given[string(name)]
		switch {
		case e == nil && a == nil || limit.IsZero():
			continue
		case a == nil:
			return nil, fmt.Errorf("container %s: its devices of resource %s were not allocated when the pod was admitted", container.Name, name)
		}
		if e != nil && e.client != nil && e.options.GetPreStartRequired() {
			calling, cancel := context.WithTimeout(ctx, callTimeout)
			_, err := e.client.PreStartContainer(calling, &pluginapi.PreStartContainerRequest{DevicesIds: a.Devices})
			cancel()
			if err != nil {
				return nil, fmt.Errorf("device plugin of %s before the start of container %s: %w", name, container.Name, err)
			}
		}
		maps.Copy(out.Envs, a.Response.GetEnvs())
		maps.Copy(out.Annotations, a.Response.GetAnnotations())
		out.Mounts = append(out.Mounts, a.Response.GetMounts()...)
		out.Devices = append(out.Devices, a.Response.GetDevices()...)
		out.CdiDevices = append(out.CdiDevices, a.Response.GetCdiDevices()...)
	}
	return out, nil
}
