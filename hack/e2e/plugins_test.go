// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/fairlead/fairlead/hack/sandbox"
)

// plugin registers a plugin with a node's kubelet, by one socket for all its services.
type plugin struct {
	registration.UnimplementedRegistrationServer
	kind string
	root string // the node's root directory, from here

	mu    sync.Mutex
	calls []string
}

func (p *plugin) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	versions := []string{"1.0.0"}
	if p.kind == registration.DRAPlugin {
		versions = []string{draapi.DRAPluginService, drahealth.DRAResourceHealthService}
	}
	return &registration.PluginInfo{Type: p.kind, Name: pluginName, SupportedVersions: versions}, nil
}

func (p *plugin) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	p.note(fmt.Sprintf("registered=%t %s", s.PluginRegistered, s.Error))
	return &registration.RegistrationStatusResponse{}, nil
}

func (p *plugin) note(call string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, call)
}

// saw waits for a call.
func (p *plugin) saw(t *testing.T, call string) {
	t.Helper()
	eventually(t, podPatience, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !slices.Contains(p.calls, call) {
			return fmt.Errorf("%q is not among the calls %q", call, p.calls)
		}
		return nil
	})
}

const pluginName = "gadgets.e2e.fairlead.io"

// serve runs the plugin on a node; stop ends it and takes its socket away, as the end of its pod does.
func (p *plugin) serve(t *testing.T, node string, services func(*grpc.Server)) (stop func()) {
	t.Helper()
	pid, err := env.sandbox.InitPid(node)
	if err != nil {
		t.Fatal(err)
	}
	p.root = fmt.Sprintf("/proc/%d/root", pid)
	listener, err := net.Listen("unix", filepath.Join(p.root, "var/lib/kubelet/plugins_registry", p.kind+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, p)
	services(server)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	stop = sync.OnceFunc(func() { server.Stop(); <-done })
	t.Cleanup(stop)
	p.saw(t, "registered=true ")
	return stop
}

// gadgets is a resource driver whose devices are variables: each claim gets a CDI device that says which one it is.
type gadgets struct {
	draapi.UnimplementedDRAPluginServer
	drahealth.UnimplementedDRAResourceHealthServer
	*plugin
	health chan []*drahealth.DeviceHealth // what to tell of its devices next
}

func (g *gadgets) services(s *grpc.Server) {
	draapi.RegisterDRAPluginServer(s, g)
	drahealth.RegisterDRAResourceHealthServer(s, g)
}

func (g *gadgets) NodeWatchResources(_ *drahealth.NodeWatchResourcesRequest, stream grpc.ServerStreamingServer[drahealth.NodeWatchResourcesResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case devices := <-g.health:
			if err := stream.Send(&drahealth.NodeWatchResourcesResponse{Devices: devices}); err != nil {
				return err
			}
		}
	}
}

func (g *gadgets) spec(uid string) string {
	return filepath.Join(g.root, "run/cdi", "e2e-"+uid+".json")
}

func (g *gadgets) NodePrepareResources(ctx context.Context, r *draapi.NodePrepareResourcesRequest) (*draapi.NodePrepareResourcesResponse, error) {
	out := &draapi.NodePrepareResourcesResponse{Claims: map[string]*draapi.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		claim, err := env.client.ResourceV1().ResourceClaims(c.Namespace).Get(ctx, c.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		device := claim.Status.Allocation.Devices.Results[0]
		text := fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":"fairlead.io/gadget","devices":[{"name":%q,"containerEdits":{"env":["GADGET=%s"]}}]}`, c.Uid, device.Device)
		if err := os.MkdirAll(filepath.Dir(g.spec(c.Uid)), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(g.spec(c.Uid), []byte(text), 0o644); err != nil {
			return nil, err
		}
		out.Claims[c.Uid] = &draapi.NodePrepareResourceResponse{Devices: []*draapi.Device{{
			RequestNames: []string{device.Request}, PoolName: device.Pool, DeviceName: device.Device, CdiDeviceIds: []string{"fairlead.io/gadget=" + c.Uid}}}}
		g.note("prepare " + device.Device)
	}
	return out, nil
}

func (g *gadgets) NodeUnprepareResources(_ context.Context, r *draapi.NodeUnprepareResourcesRequest) (*draapi.NodeUnprepareResourcesResponse, error) {
	out := &draapi.NodeUnprepareResourcesResponse{Claims: map[string]*draapi.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		if err := os.Remove(g.spec(c.Uid)); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		out.Claims[c.Uid] = &draapi.NodeUnprepareResourceResponse{}
		g.note("unprepare " + c.Uid)
	}
	return out, nil
}

// TestResourceClaims: pods get the devices that the scheduler gave their claims, by their driver; the agent's end changes nothing for them, and what ended
// meanwhile is given back.
func TestResourceClaims(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-claims")}
	g := &gadgets{plugin: &plugin{kind: registration.DRAPlugin}, health: make(chan []*drahealth.DeviceHealth)}
	stop := g.serve(t, "agent-1", g.services)
	t.Cleanup(func() { kubectl(t, "delete", "deviceclass,resourceslice", "e2e-gadgets", "--ignore-not-found") })
	pod := func(name string) string {
		return strings.ReplaceAll(`
---
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  resourceClaims: [{name: g, resourceClaimTemplateName: gadget}]
  containers:
  - {name: app, image: IMAGE, command: [/testapp, print=has-$GADGET, forever], resources: {claims: [{name: g}]}}
  - {name: without, image: IMAGE, command: [/testapp, print=has-$GADGET, forever]}`, "NAME", name)
	}
	p.apply(`
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: e2e-gadgets}
spec: {selectors: [{cel: {expression: "device.driver == '` + pluginName + `'"}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: e2e-gadgets}
spec: {nodeName: agent-1, driver: ` + pluginName + `, pool: {name: agent-1, generation: 1, resourceSliceCount: 1}, devices: [{name: red}, {name: blue}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gadget}
spec: {spec: {devices: {requests: [{name: any, exactly: {deviceClassName: e2e-gadgets}}]}}}` + pod("first") + pod("second"))
	first, second := p.untilReady("first"), p.untilReady("second")
	logs := p.kubectl("logs", "first", "-c", "app") + p.kubectl("logs", "second", "-c", "app")
	if containsAll(logs, "has-red\n", "has-blue\n") != "" {
		t.Errorf("the pods say %q", logs)
	}
	if log := p.kubectl("logs", "first", "-c", "without"); log != "has-\n" {
		t.Errorf("a container without a claim says %q", log)
	}
	g.health <- []*drahealth.DeviceHealth{
		{Device: &drahealth.DeviceIdentifier{PoolName: "agent-1", DeviceName: "red"}, Health: drahealth.HealthStatus_UNHEALTHY, Message: "too hot", HealthCheckTimeoutSeconds: 600},
		{Device: &drahealth.DeviceIdentifier{PoolName: "agent-1", DeviceName: "blue"}, Health: drahealth.HealthStatus_UNHEALTHY, Message: "too cold", HealthCheckTimeoutSeconds: 600},
	}
	p.until("first", "told how its device is", func(pod *corev1.Pod) bool {
		s := containerStatus(pod, "app").AllocatedResourcesStatus
		return len(s) == 1 && s[0].Name == "claim:g" && len(s[0].Resources) == 1 && strings.HasPrefix(string(s[0].Resources[0].ResourceID), "fairlead.io/gadget=") &&
			s[0].Resources[0].Health == corev1.ResourceHealthStatusUnhealthy && s[0].Resources[0].Message != nil && strings.HasPrefix(*s[0].Resources[0].Message, "too ") &&
			containerStatus(pod, "without").AllocatedResourcesStatus == nil
	})
	p.apply(pod("third")[len("\n---"):])
	p.until("third", "waiting for a device", func(pod *corev1.Pod) bool { return podCondition(pod, corev1.PodScheduled) == corev1.ConditionFalse })

	claim, err := env.client.ResourceV1().ResourceClaims(p.ns).Get(t.Context(), *first.Status.ResourceClaimStatuses[0].ResourceClaimName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	control(t, "agent-1", sandbox.VerbKill, "")
	p.kubectl("delete", "pod", "first", "--grace-period=0", "--force")
	control(t, "agent-1", sandbox.VerbStart, "")
	g.saw(t, "unprepare "+string(claim.UID))
	if s := p.untilReady("second").Status.ContainerStatuses[0]; s.ContainerID != second.Status.ContainerStatuses[0].ContainerID || s.RestartCount != 0 {
		t.Errorf("%+v", s)
	}
	p.untilReady("third")
	if log := p.kubectl("logs", "third", "-c", "app"); !strings.HasPrefix(log, "has-") || strings.Contains(p.kubectl("logs", "second", "-c", "app"), log) {
		t.Errorf("the third pod says %q, the second has the same", log)
	}

	// Without its driver a pod waits and says for what.
	p.kubectl("delete", "pod", "second", "third")
	eventually(t, podPatience, func() error {
		if left, _ := filepath.Glob(g.spec("*")); len(left) > 0 {
			return fmt.Errorf("claims of pods that are gone are still prepared: %q", left)
		}
		return nil
	})
	stop()
	p.apply(pod("fourth")[len("\n---"):])
	p.wantEvent("fourth", "Warning FailedPrepareDynamicResources", pluginName+" is not registered on this node")
	stop = g.serve(t, "agent-1", g.services)
	p.untilReady("fourth")
	p.kubectl("delete", "pod", "fourth")

	// What a driver published of the node goes a while after it, so that no pod is sent to devices that nobody prepares.
	if name := kubectl(t, "get", "resourceslice", "e2e-gadgets", "-o", "name"); name == "" {
		t.Error("the driver's slice went while the driver was there")
	}
	stop()
	eventually(t, podPatience, func() error {
		if name := kubectl(t, "get", "resourceslice", "e2e-gadgets", "-o", "name", "--ignore-not-found"); name != "" {
			return fmt.Errorf("%s outlives its driver", name)
		}
		return nil
	})
}

// gizmos is a device plugin with two devices.
type gizmos struct {
	pluginapi.UnimplementedDevicePluginServer
	devices chan []*pluginapi.Device // what to tell next
}

const gizmo = "e2e.fairlead.io/gizmo"

func (g *gizmos) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{}, nil
}

func (g *gizmos) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case devices := <-g.devices:
			if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
		}
	}
}

func (g *gizmos) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	out := &pluginapi.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		out.ContainerResponses = append(out.ContainerResponses, &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"GIZMOS": strings.Join(c.DevicesIds, "+")},
			Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/gizmo", HostPath: "/dev/null", Permissions: "rw"}}})
	}
	return out, nil
}

// TestDevicePlugin: pods get the devices of a device plugin, one pod each, the scheduler counts them, and a pod's status says when its device is broken.
func TestDevicePlugin(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-devices-plugin")}
	pid, err := env.sandbox.InitPid("agent-2")
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d/root/var/lib/kubelet/device-plugins", pid)
	listener, err := net.Listen("unix", filepath.Join(dir, "gizmo.sock"))
	if err != nil {
		t.Fatal(err)
	}
	g := &gizmos{devices: make(chan []*pluginapi.Device)}
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, g)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	connection, err := grpc.NewClient("passthrough:///kubelet", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "kubelet.sock"))
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := pluginapi.NewRegistrationClient(connection).Register(t.Context(), &pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: "gizmo.sock", ResourceName: gizmo}); err != nil {
		t.Fatal(err)
	}
	g.devices <- []*pluginapi.Device{{ID: "left", Health: pluginapi.Healthy}, {ID: "right", Health: pluginapi.Healthy}}
	pod := func(name string) string {
		return strings.NewReplacer("NAME", name, "RESOURCE", gizmo).Replace(`
---
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'ls -l /dev/gizmo && echo has-$GIZMOS && exec /testapp forever'], resources: {limits: {RESOURCE: 1}}}]`)
	}
	p.apply(pod("first")[len("\n---"):] + pod("second"))
	for _, name := range []string{"first", "second"} {
		if node := p.untilReady(name).Spec.NodeName; node != "agent-2" {
			t.Errorf("%s is on %s", name, node)
		}
	}
	has := func(name string) string {
		t.Helper()
		_, device, found := strings.Cut(p.kubectl("logs", name), "has-")
		if !found {
			t.Errorf("%s says %q", name, p.kubectl("logs", name))
		}
		return strings.TrimSpace(device)
	}
	eventually(t, podPatience, func() error { // a container that runs has not yet written
		if first, second := has("first"), has("second"); first+second != "leftright" && second+first != "leftright" {
			return fmt.Errorf("the pods have %q and %q", first, second)
		}
		return nil
	})
	p.apply(pod("third")[len("\n---"):])
	p.until("third", "waiting for a device", func(pod *corev1.Pod) bool { return podCondition(pod, corev1.PodScheduled) == corev1.ConditionFalse })
	wanted := has("first")
	g.devices <- []*pluginapi.Device{{ID: "left", Health: pluginapi.Unhealthy}, {ID: "right", Health: pluginapi.Unhealthy}}
	p.until("first", "told that its device is broken", func(pod *corev1.Pod) bool {
		s := pod.Status.ContainerStatuses[0].AllocatedResourcesStatus
		return len(s) == 1 && string(s[0].Name) == gizmo && len(s[0].Resources) == 1 && string(s[0].Resources[0].ResourceID) == wanted &&
			s[0].Resources[0].Health == corev1.ResourceHealthStatusUnhealthy
	})
	g.devices <- []*pluginapi.Device{{ID: "left", Health: pluginapi.Healthy}, {ID: "right", Health: pluginapi.Healthy}}
	p.kubectl("delete", "pod", "first")
	p.untilReady("third")
	eventually(t, podPatience, func() error {
		if third := has("third"); third != wanted {
			return fmt.Errorf("the third pod has %q, the first gave back %q", third, wanted)
		}
		return nil
	})
	p.kubectl("delete", "pod", "second", "third")
}

// tokenTaker is a CSI driver whose volumes are empty directories; it wants tokens of the pods' service accounts.
type tokenTaker struct {
	csi.UnimplementedNodeServer
	*plugin
	published chan map[string]string
}

func (d *tokenTaker) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "n"}, nil
}

func (d *tokenTaker) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (d *tokenTaker) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	select {
	case d.published <- r.VolumeContext:
	default:
	}
	return &csi.NodePublishVolumeResponse{}, os.MkdirAll(filepath.Join(d.root, r.TargetPath), 0o755)
}

func (d *tokenTaker) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, os.RemoveAll(filepath.Join(d.root, r.TargetPath))
}

// TestTokensForDrivers: a CSI driver gets the tokens that its CSIDriver asks for, of the pod's account, by a node that may ask for no others.
func TestTokensForDrivers(t *testing.T) {
	p := pods{t, inNamespace(t, "e2e-csi-tokens")}
	p.apply(`
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: ` + pluginName + `}
spec: {attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Ephemeral], tokenRequests: [{audience: vault, expirationSeconds: 1200}]}`)
	t.Cleanup(func() { kubectl(t, "delete", "csidriver", pluginName) })
	d := &tokenTaker{plugin: &plugin{kind: registration.CSIPlugin}, published: make(chan map[string]string, 1)}
	d.serve(t, "agent-2", func(s *grpc.Server) { csi.RegisterNodeServer(s, d) })
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: agent-2
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, csi: {driver: ` + pluginName + `}}]
  containers: [{name: app, image: IMAGE, command: [/testapp, forever], volumeMounts: [{name: v, mountPath: /v}]}]`)
	p.untilReady("client")
	if name := kubectl(t, "get", "node", "agent-2", "-o", `jsonpath={.metadata.labels.kubernetes\.io/hostname}`); name != "agent-2" {
		t.Errorf("a driver without topology left the node with the host name %q", name)
	}
	asked := <-d.published
	var tokens map[string]struct {
		Token   string      `json:"token"`
		Expires metav1.Time `json:"expirationTimestamp"`
	}
	if err := json.Unmarshal([]byte(asked["csi.storage.k8s.io/serviceAccount.tokens"]), &tokens); err != nil || len(tokens) != 1 {
		t.Fatalf("%v: %v", err, asked)
	}
	review, err := env.client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: tokens["vault"].Token, Audiences: []string{"vault"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expires := tokens["vault"].Expires
	if who := review.Status.User.Username; who != "system:serviceaccount:"+p.ns+":default" || expires.IsZero() {
		t.Errorf("the token is %q's until %s: %s", who, expires, review.Status.Error)
	}
	p.kubectl("delete", "pod", "client")
}
