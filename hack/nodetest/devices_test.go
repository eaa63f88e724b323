// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/plugins"
)

const gadget = "fairlead.io/gadget"

// gadgets is a device plugin with the devices a, b and c, of which b is its favourite. It registers again when the kubelet makes its socket anew.
type gadgets struct {
	pluginapi.UnimplementedDevicePluginServer
	dir     string
	devices chan []*pluginapi.Device // what to tell next
	started chan []string            // devices of containers that start
}

func startGadgets(t *testing.T, n *Node) *gadgets {
	t.Helper()
	g := &gadgets{dir: filepath.Join(n.Config.Kubelet.DataDir, "device-plugins"), devices: make(chan []*pluginapi.Device), started: make(chan []string, 16)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var last os.FileInfo
		for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			socket := filepath.Join(g.dir, "kubelet.sock")
			if info, err := os.Stat(socket); err != nil || last != nil && os.SameFile(info, last) && info.ModTime().Equal(last.ModTime()) {
				continue
			} else if g.serve(ctx, socket) == nil {
				last = info
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return g
}

// serve registers once.
func (g *gadgets) serve(ctx context.Context, kubelet string) error {
	own := filepath.Join(g.dir, "gadget.sock")
	_ = os.Remove(own)
	listener, err := net.Listen("unix", own)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, g)
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, server.Stop)
	connection, err := plugins.Dial(kubelet)
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = pluginapi.NewRegistrationClient(connection).Register(ctx, &pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: "gadget.sock", ResourceName: gadget,
		Options: &pluginapi.DevicePluginOptions{PreStartRequired: true, GetPreferredAllocationAvailable: true}})
	return err
}

func (g *gadgets) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	devices := []*pluginapi.Device{{ID: "a", Health: pluginapi.Healthy}, {ID: "b", Health: pluginapi.Healthy}, {ID: "c", Health: pluginapi.Healthy}}
	for {
		if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case devices = <-g.devices:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (g *gadgets) GetPreferredAllocation(_ context.Context, r *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	out := &pluginapi.ContainerPreferredAllocationResponse{DeviceIDs: []string{"no such device"}}
	if slices.Contains(r.ContainerRequests[0].AvailableDeviceIDs, "b") {
		out.DeviceIDs = []string{"b"}
	}
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{out}}, nil
}

func (g *gadgets) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{{
		Envs:    map[string]string{"GADGETS": strings.Join(r.ContainerRequests[0].DevicesIds, ",")},
		Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/gadget", HostPath: "/dev/null", Permissions: "rw"}},
		Mounts:  []*pluginapi.Mount{{ContainerPath: "/gadgets", HostPath: g.dir, ReadOnly: true}},
	}}}, nil
}

func (g *gadgets) PreStartContainer(_ context.Context, r *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	g.started <- r.DevicesIds
	return &pluginapi.PreStartContainerResponse{}, nil
}

func withGadgets(pod *v1.Pod, count string) *v1.Pod {
	pod.Spec.Containers[0].Resources.Limits = v1.ResourceList{gadget: quantity(count)}
	pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{gadget: quantity(count)}
	return pod
}

// allocatable is how many gadgets the node says pods may have.
func (n *Node) gadgets() string {
	node, err := n.Client.CoreV1().Nodes().Get(n.T.Context(), NodeName, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	all, free := node.Status.Capacity[gadget], node.Status.Allocatable[gadget]
	return all.String() + "/" + free.String()
}

func TestDevicePlugin(t *testing.T) {
	n := Start(t, nil)
	n.Down()
	n.Spawn()
	g := startGadgets(t, n)
	until(t, "the node has gadgets", func() bool { return n.gadgets() == "3/3" })

	n.Create(withGadgets(Pod("one", "print=$GADGETS", "ls=/dev/", "ls=/gadgets/", "forever"), "1"))
	pod := n.WaitReady("one")
	n.UntilLog(pod, "app", func(log string) bool {
		return strings.HasPrefix(log, "b\n") && strings.Contains(log, " gadget\n") && strings.Contains(log, " kubelet.sock\n")
	})
	if got := <-g.started; !slices.Equal(got, []string{"b"}) {
		t.Errorf("before the start the plugin was told of %v", got)
	}
	n.Create(withGadgets(Pod("too-many", "forever"), "3"))
	refused := n.WaitPhase("too-many", v1.PodFailed)
	if refused.Status.Reason != "UnexpectedAdmissionError" || !strings.Contains(refused.Status.Message, "Requested: 3, Available: 2") {
		t.Errorf("status %+v", refused.Status)
	}

	resources := func() (out []string) {
		connection, err := plugins.Dial(filepath.Join(n.Config.Kubelet.DataDir, "pod-resources", "kubelet.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		list, err := podresources.NewPodResourcesListerClient(connection).List(t.Context(), &podresources.ListPodResourcesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range list.PodResources {
			for _, c := range pod.Containers {
				for _, d := range c.Devices {
					out = append(out, pod.Name+" "+c.Name+" "+d.ResourceName+" "+strings.Join(d.DeviceIds, ","))
				}
			}
		}
		slices.Sort(out)
		return out
	}
	if got, want := resources(), []string{"one app " + gadget + " b"}; !slices.Equal(got, want) {
		t.Errorf("pod resources %q, want %q", got, want)
	}

	before := pod.Status.ContainerStatuses[0].ContainerID
	n.Kill()
	n.Spawn()
	// Before the plugin has come back or after: the pod waits for it, and does not get what the first one has.
	n.Create(withGadgets(Pod("two", "print=$GADGETS", "forever"), "2"))
	n.UntilLog(n.WaitReady("two"), "app", func(log string) bool { return log == "a,c\n" })
	if s := n.WaitReady("one").Status.ContainerStatuses[0]; s.ContainerID != before || s.RestartCount != 0 {
		t.Errorf("%+v", s)
	}
	if got, want := resources(), []string{"one app " + gadget + " b", "two app " + gadget + " a,c"}; !slices.Equal(got, want) {
		t.Errorf("pod resources %q, want %q", got, want)
	}
	n.Delete("one")
	n.Create(withGadgets(Pod("three", "print=$GADGETS"), "1"))
	if log := n.Log(n.WaitPhase("three", v1.PodSucceeded), "app", 0); log != "b\n" {
		t.Errorf("log %q", log)
	}
	g.devices <- []*pluginapi.Device{{ID: "a", Health: pluginapi.Healthy}, {ID: "b", Health: pluginapi.Unhealthy}}
	until(t, "the node says that one gadget is broken and one gone", func() bool { return n.gadgets() == "2/1" })
}
