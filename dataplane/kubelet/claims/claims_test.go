// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/dataplane/kubelet/plugins"
)

const driverName = "gpu.example.com"

// fakeDriver notes its calls; its devices are named after the claim.
type fakeDriver struct {
	draapi.UnimplementedDRAPluginServer
	mu    sync.Mutex
	calls []string
	fail  error  // of the call
	claim string // failure of the claim
	omit  bool   // the claim is left out of the answer
}

func (d *fakeDriver) NodePrepareResources(_ context.Context, r *draapi.NodePrepareResourcesRequest) (*draapi.NodePrepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "prepare "+r.Claims[0].Name)
	answer := &draapi.NodePrepareResourceResponse{Error: d.claim, Devices: []*draapi.Device{
		{RequestNames: []string{"big"}, PoolName: "p", DeviceName: "d0", CdiDeviceIds: []string{"example.com/gpu=" + r.Claims[0].Name + "-big"}},
		{RequestNames: []string{"small/first"}, PoolName: "p", DeviceName: "d1", CdiDeviceIds: []string{"example.com/gpu=" + r.Claims[0].Name + "-small"}},
	}}
	if d.omit {
		return &draapi.NodePrepareResourcesResponse{}, d.fail
	}
	return &draapi.NodePrepareResourcesResponse{Claims: map[string]*draapi.NodePrepareResourceResponse{r.Claims[0].Uid: answer}}, d.fail
}

func (d *fakeDriver) NodeUnprepareResources(_ context.Context, r *draapi.NodeUnprepareResourcesRequest) (*draapi.NodeUnprepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "unprepare "+r.Claims[0].Name)
	return &draapi.NodeUnprepareResourcesResponse{Claims: map[string]*draapi.NodeUnprepareResourceResponse{r.Claims[0].Uid: {Error: d.claim}}}, d.fail
}

func (d *fakeDriver) set(fail error, claim string, omit bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail, d.claim, d.omit = fail, claim, omit
}

func (d *fakeDriver) said() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

func startDriver(t *testing.T) (*fakeDriver, plugins.Plugin) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "dra.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	d, server := &fakeDriver{}, grpc.NewServer()
	draapi.RegisterDRAPluginServer(server, d)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return d, plugins.Plugin{Kind: "DRAPlugin", Name: driverName, Endpoint: socket, Versions: []string{draapi.DRAPluginService}}
}

func claim(name string, pods ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID("claim-" + name)}}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "big", Driver: driverName, Pool: "p", Device: "d0"}, {Request: "small/first", Driver: driverName, Pool: "p", Device: "d1"}}}}
	for _, pod := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod, UID: types.UID(pod)})
	}
	return c
}

func podWith(name string, claims ...string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app"}}}}
	for _, c := range claims {
		pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, v1.PodResourceClaim{Name: "of-" + c, ResourceClaimName: ptr.To(c)})
		pod.Spec.Containers[0].Resources.Claims = append(pod.Spec.Containers[0].Resources.Claims, v1.ResourceClaim{Name: "of-" + c})
	}
	return pod
}

func ids(t *testing.T, m *Manager, pod *v1.Pod) (out []string) {
	t.Helper()
	given, err := m.Container(pod, &pod.Spec.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range given {
		out = append(out, d.CDI...)
	}
	return out
}

func TestClaimIsPreparedOnceAndTakenBackWithItsLastPod(t *testing.T) {
	client := fake.NewClientset(claim("shared", "a", "b"))
	file := filepath.Join(t.TempDir(), "claims")
	m, err := New(client, "n", file, func(types.UID) {})
	if err != nil {
		t.Fatal(err)
	}
	d, plugin := startDriver(t)
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	a, b := podWith("a", "shared"), podWith("b", "shared")
	for _, pod := range []*v1.Pod{a, b, a} {
		if err := m.Prepare(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	if got := d.said(); !slices.Equal(got, []string{"prepare shared"}) {
		t.Errorf("calls %q", got)
	}
	if got := ids(t, m, a); !slices.Equal(got, []string{"example.com/gpu=shared-big", "example.com/gpu=shared-small"}) {
		t.Errorf("all requests: %q", got)
	}
	a.Spec.Containers[0].Resources.Claims[0].Request = "small" // what was allocated is one of its alternatives
	if got := ids(t, m, a); !slices.Equal(got, []string{"example.com/gpu=shared-small"}) {
		t.Errorf("one request: %q", got)
	}
	if err := m.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Container(a, &a.Spec.Containers[0]); err == nil {
		t.Error("a pod that gave its claim back still has it")
	}

	// The agent is killed. The next one knows that b has the claim, asks the driver again when b goes on, and takes it back when b is gone.
	m.Close()
	if m, err = New(client, "n", file, func(types.UID) {}); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	if got := m.Pods(); !slices.Equal(got, []types.UID{"b"}) {
		t.Errorf("pods %q", got)
	}
	if got := ids(t, m, b); len(got) != 2 {
		t.Errorf("before the driver was asked again: %q", got)
	}
	if err := m.Prepare(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	d.set(nil, "busy", false)
	if err := m.Release(t.Context(), "b"); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("%v, want the driver's reason", err)
	}
	d.set(nil, "", false)
	for range 2 {
		if err := m.Release(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
	}
	if got := d.said(); !slices.Equal(got, []string{"prepare shared", "prepare shared", "unprepare shared", "unprepare shared"}) {
		t.Errorf("calls %q", got)
	}
	if left, err := readCheckpoint(file); err != nil || len(left) != 0 {
		t.Errorf("the checkpoint holds %v, %v", left, err)
	}
}

func TestWhyAClaimIsNotPrepared(t *testing.T) {
	unallocated := claim("unallocated", "a")
	unallocated.Status.Allocation = nil
	m, err := New(fake.NewClientset(claim("mine", "a"), claim("others", "b"), unallocated), "n", filepath.Join(t.TempDir(), "claims"), func(types.UID) {})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	d, plugin := startDriver(t)
	old := plugin
	old.Versions = []string{"v1alpha3.Node"}
	if err := m.Register(t.Context(), old); err == nil {
		t.Error("a driver without the v1 service was taken")
	}
	m.started = m.started.Add(-startGrace)
	wants := func(pod *v1.Pod, word string) {
		t.Helper()
		if err := m.Prepare(t.Context(), pod); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v, want %q", err, word)
		}
	}
	wants(podWith("a", "mine"), "is not registered on this node")
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	wants(podWith("a", "none"), `"none" not found`)
	wants(podWith("a", "others"), "not reserved for pod a")
	wants(podWith("a", "unallocated"), "no devices allocated")
	template := podWith("a")
	template.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "t", ResourceClaimTemplateName: ptr.To("t")}}
	wants(template, "t")
	d.set(errors.New("no power"), "", false)
	wants(podWith("a", "mine"), "no power")
	d.set(nil, "broken device", false)
	wants(podWith("a", "mine"), "broken device")
	d.set(nil, "", true)
	wants(podWith("a", "mine"), "leaves the claim out")
	pod := podWith("a", "mine")
	if _, err := m.Container(pod, &pod.Spec.Containers[0]); err == nil {
		t.Error("a container was given a claim that is not prepared")
	}
	d.set(nil, "", false)
	if err := m.Prepare(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

func TestExtendedResourceIsAClaim(t *testing.T) {
	made := claim("made", "a")
	made.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "a", UID: "a", Controller: ptr.To(true)}}
	m, err := New(fake.NewClientset(made), "n", filepath.Join(t.TempDir(), "claims"), func(types.UID) {})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	_, plugin := startDriver(t)
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	pod := podWith("a")
	pod.Status.ExtendedResourceClaimStatus = &v1.PodExtendedResourceClaimStatus{ResourceClaimName: "made", RequestMappings: []v1.ContainerExtendedResourceRequest{
		{ContainerName: "app", ResourceName: "example.com/gpu", RequestName: "big"}, {ContainerName: "other", ResourceName: "example.com/gpu", RequestName: "small"}}}
	if err := m.Prepare(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, m, pod); !slices.Equal(got, []string{"example.com/gpu=made-big"}) {
		t.Errorf("%q", got)
	}
}

func TestDamagedCheckpointIsSaidAndLeft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "claims")
	if err := os.WriteFile(file, []byte(`{"u": {"name":`), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := New(fake.NewClientset(), "n", file, func(types.UID) {})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v, want it to name %s", err, file)
	}
	if err := m.Release(t.Context(), "any"); err != nil {
		t.Errorf("the manager does not work: %v", err)
	}
}

func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte(`{"u":{"namespace":"n","name":"c","pods":["p"],"drivers":{"d":[{"requests":["r"],"pool":"p","device":"d","cdi":["a=b"]}]}}}`))
	f.Add([]byte(`{"u":null,"":{"name":"x"}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		known, err := parseCheckpoint(data)
		if err != nil {
			return
		}
		m := &Manager{held: known}
		for _, uid := range m.Pods() {
			pod := podWith(string(uid), "c")
			pod.UID, pod.Namespace = uid, "n"
			if given, err := m.Container(pod, &pod.Spec.Containers[0]); err == nil {
				for _, d := range given {
					if d.Namespace != "n" || d.Claim != "c" {
						t.Errorf("%+v is not of claim n/c", d)
					}
				}
			}
		}
	})
}
