// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/plugins"
)

// Run serves registrations on <dir>/kubelet.sock until ctx ends. Plugins see the socket made anew and register again, so old sockets are removed.
func (m *Manager) Run(ctx context.Context) error {
	defer m.running.Wait()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("device plugins: %w", err)
	}
	for _, entry := range entries {
		if entry.Type()&os.ModeSocket != 0 {
			if err := os.Remove(filepath.Join(m.dir, entry.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("device plugins: %w", err)
			}
		}
	}
	server := grpc.NewServer()
	pluginapi.RegisterRegistrationServer(server, registration{m: m})
	return serve(ctx, server, filepath.Join(m.dir, filepath.Base(pluginapi.KubeletSocket)))
}

// serve answers on a socket until ctx ends.
func serve(ctx context.Context, server *grpc.Server, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("serve plugins: %w", err)
	}
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", socket, err)
	}
	return nil
}

type registration struct {
	pluginapi.UnimplementedRegistrationServer
	m *Manager
}

// Register is called by a device plugin that starts.
func (r registration) Register(_ context.Context, request *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	if !slices.Contains(pluginapi.SupportedVersions[:], request.Version) {
		return nil, status.Errorf(codes.InvalidArgument, "device plugin API version %q is not supported; want %v", request.Version, pluginapi.SupportedVersions)
	}
	if request.Endpoint == "" || strings.Contains(request.Endpoint, "/") {
		return nil, status.Errorf(codes.InvalidArgument, "endpoint %q is not the name of a socket in %s", request.Endpoint, r.m.dir)
	}
	if err := r.m.add(filepath.Join(r.m.dir, request.Endpoint), request.ResourceName, request.Options); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &pluginapi.Empty{}, nil
}

// Watched handles device plugins that are found by the plugin watcher.
type Watched struct{ *Manager }

// Register implements plugins.Handler.
func (w Watched) Register(ctx context.Context, p plugins.Plugin) error {
	if !slices.ContainsFunc(p.Versions, func(v string) bool { return slices.Contains(pluginapi.SupportedVersions[:], v) }) {
		return fmt.Errorf("device plugin %s: none of its versions %v is one of %v", p.Name, p.Versions, pluginapi.SupportedVersions)
	}
	connection, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	options, err := pluginapi.NewDevicePluginClient(connection).GetDevicePluginOptions(ctx, &pluginapi.Empty{})
	if err != nil {
		return fmt.Errorf("device plugin %s: its options: %w", p.Name, err)
	}
	return w.add(p.Endpoint, p.Name, options)
}

// Deregister implements plugins.Handler. The plugin's stream ends by itself.
func (w Watched) Deregister(plugins.Plugin) {}

// Resources serves the pod resources API.
type Resources struct {
	podresources.UnimplementedPodResourcesListerServer
	*Manager
	// Pods are those that have not ended.
	Pods func() []*v1.Pod
	// Claims are what resource claims give a container.
	Claims func(*v1.Pod, *v1.Container) []*podresources.DynamicResource
}

// Serve answers on a socket until ctx ends.
func (r *Resources) Serve(ctx context.Context, socket string) error {
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, r)
	return serve(ctx, server, socket)
}

// List implements the API.
func (r *Resources) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	out := &podresources.ListPodResourcesResponse{}
	for _, pod := range r.Pods() {
		out.PodResources = append(out.PodResources, r.pod(pod))
	}
	return out, nil
}

// Get implements the API.
func (r *Resources) Get(_ context.Context, request *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	for _, pod := range r.Pods() {
		if pod.Name == request.PodName && pod.Namespace == request.PodNamespace {
			return &podresources.GetPodResourcesResponse{PodResources: r.pod(pod)}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s not found", request.PodName, request.PodNamespace)
}

// GetAllocatableResources implements the API.
func (r *Resources) GetAllocatableResources(context.Context, *podresources.AllocatableResourcesRequest) (*podresources.AllocatableResourcesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &podresources.AllocatableResourcesResponse{}
	for name, e := range r.endpoints {
		for id, d := range e.devices {
			if d.Health == pluginapi.Healthy {
				out.Devices = append(out.Devices, &podresources.ContainerDevices{ResourceName: name, DeviceIds: []string{id}, Topology: topology(d)})
			}
		}
	}
	slices.SortFunc(out.Devices, func(a, b *podresources.ContainerDevices) int {
		return strings.Compare(a.ResourceName+a.DeviceIds[0], b.ResourceName+b.DeviceIds[0])
	})
	return out, nil
}

func topology(d *pluginapi.Device) *podresources.TopologyInfo {
	if d.GetTopology() == nil {
		return nil
	}
	out := &podresources.TopologyInfo{}
	for _, n := range d.Topology.Nodes {
		out.Nodes = append(out.Nodes, &podresources.NUMANode{ID: n.ID})
	}
	return out
}

func (r *Resources) pod(pod *v1.Pod) *podresources.PodResources {
	out := &podresources.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	for i := range pod.Spec.InitContainers { // the devices of others are used again when they have ended
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == v1.ContainerRestartPolicyAlways {
			out.Containers = append(out.Containers, r.container(pod, &pod.Spec.InitContainers[i]))
		}
	}
	for i := range pod.Spec.Containers {
		out.Containers = append(out.Containers, r.container(pod, &pod.Spec.Containers[i]))
	}
	return out
}

func (r *Resources) container(pod *v1.Pod, container *v1.Container) *podresources.ContainerResources {
	out := &podresources.ContainerResources{Name: container.Name}
	for name, a := range r.of(pod.UID, container.Name) {
		out.Devices = append(out.Devices, &podresources.ContainerDevices{ResourceName: name, DeviceIds: a.Devices})
	}
	slices.SortFunc(out.Devices, func(a, b *podresources.ContainerDevices) int { return strings.Compare(a.ResourceName, b.ResourceName) })
	if r.Claims != nil {
		out.DynamicResources = r.Claims(pod, container)
	}
	return out
}
