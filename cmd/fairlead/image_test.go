// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	apitest "k8s.io/cri-api/pkg/apis/testing"
	"k8s.io/cri-client/pkg/fake"
)

// runtimeOfTest is a runtime that remembers the credentials of the last pull.
type runtimeOfTest struct {
	*fake.RemoteRuntime
	auth *runtimeapi.AuthConfig
}

func (r *runtimeOfTest) PullImage(ctx context.Context, request *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	r.auth = request.Auth
	return r.RemoteRuntime.PullImage(ctx, request)
}

// imageCommand runs `fairlead image` against a runtime that runs a container of "used", mounts "volume" into it, and has "idle" and the pinned "pause" too.
func imageCommand(t *testing.T) (runtime *runtimeOfTest, run func(args ...string) (string, error)) {
	t.Helper()
	runtime = &runtimeOfTest{RemoteRuntime: fake.NewFakeRemoteRuntime()}
	runtime.ImageService.SetFakeImageSize(3 << 20)
	runtime.ImageService.SetFakeImagePinned("pause", true)
	runtime.ImageService.SetFakeImages([]string{"used", "volume", "idle", "pause"})
	runtime.RuntimeService.SetFakeContainers([]*apitest.FakeContainer{{
		ContainerStatus: runtimeapi.ContainerStatus{
			Id: "1", Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: "used"}, ImageRef: "used",
			State: runtimeapi.ContainerState_CONTAINER_EXITED, CreatedAt: 1, StartedAt: 2, FinishedAt: 3, Mounts: []*runtimeapi.Mount{{Image: &runtimeapi.ImageSpec{Image: "volume"}}},
		},
		SandboxID: "s",
	}})
	socket := filepath.Join(t.TempDir(), "cri.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterImageServiceServer(server, runtime)
	runtimeapi.RegisterRuntimeServiceServer(server, runtime)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	t.Setenv("HOME", t.TempDir())
	return runtime, func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := newImageCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(append(args, "--container-runtime-endpoint", "unix://"+socket))
		cmd.SetOut(&out)
		cmd.SetErr(&bytes.Buffer{})
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
}

func TestImagePruneKeepsWhatIsUsed(t *testing.T) {
	runtime, run := imageCommand(t)
	out, err := run("prune")
	if err != nil || strings.TrimSpace(out) != "idle idle" {
		t.Fatalf("prune printed %q, %v; want the idle image's name and id", out, err)
	}
	left, err := runtime.ImageService.ListImages(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, image := range left {
		names = append(names, image.Id)
	}
	slices.Sort(names)
	if want := []string{"pause", "used", "volume"}; !slices.Equal(names, want) {
		t.Errorf("images left: %v, want %v", names, want)
	}
}

func TestImagePruneRemovesNothingWhenContainersAreUnknown(t *testing.T) {
	runtime, run := imageCommand(t)
	runtime.RuntimeService.InjectError("ContainerStatus", errors.New("runtime is ill"))
	if _, err := run("prune"); err == nil || !strings.Contains(err.Error(), "runtime is ill") {
		t.Errorf("error is %v, want the runtime's", err)
	}
	if left, _ := runtime.ImageService.ListImages(t.Context(), nil); len(left) != 4 {
		t.Errorf("%d images are left, want all 4", len(left))
	}
}

func TestImageList(t *testing.T) {
	_, run := imageCommand(t)
	out, err := run("list", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got []listedImage
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	want := []listedImage{{"idle", "idle", 3 << 20, false}, {"pause", "pause", 3 << 20, true}, {"used", "used", 3 << 20, false}, {"volume", "volume", 3 << 20, false}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if out, err = run("list"); err != nil || !strings.Contains(out, "idle     idle     3.0 MiB") {
		t.Errorf("table %q, %v", out, err)
	}
	if _, err = run("list", "-o", "yaml"); err == nil {
		t.Error("-o yaml was taken")
	}
}

func TestImagePull(t *testing.T) {
	runtime, run := imageCommand(t)
	config := filepath.Join(t.TempDir(), "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"auths":{"r.example.com":{"auth":%q}}}`, auth), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run("pull", "--config", config, "r.example.com/app:1")
	if err != nil || !strings.Contains(out, "Successfully pulled image") {
		t.Fatalf("pull printed %q, %v", out, err)
	}
	if runtime.auth.GetUsername() != "me" || runtime.auth.GetPassword() != "secret" {
		t.Errorf("pulled as %v, want the credentials of the file", runtime.auth)
	}

	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a name that is none":         {[]string{"pull", "UPPER//case"}, "couldn't parse image name"},
		"a file that is not there":    {[]string{"pull", "--config", config + ".none", "app"}, "read credentials"},
		"a runtime that refuses":      {[]string{"pull", "app"}, "no such host"},
		"credentials that are broken": {[]string{"pull", "--config", os.Args[0], "app"}, "credentials in"},
	} {
		if c.want == "no such host" {
			runtime.ImageService.InjectError("PullImage", errors.New(c.want))
		}
		if _, err := run(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want it to say %q", name, err, c.want)
		}
	}
}

func TestImageWithoutRuntime(t *testing.T) {
	for _, verb := range []string{"list", "prune"} {
		cmd := newImageCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs([]string{verb, "--run-dir", t.TempDir()})
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "is the agent running?") {
			t.Errorf("%s: error is %v, want it to ask for the agent", verb, err)
		}
	}
}
