// SPDX-License-Identifier: Apache-2.0

// Package csidriver is a CSI driver for tests: its volumes are directories of the host, or device nodes, and it notes what it is asked to do. It
// registers with a kubelet as drivers do, by a socket in the plugin directory.
package csidriver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Name is the driver's.
const Name = "test.csi.fairlead.io"

// Driver serves until Stop. Build it with Start.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer

	dir    string
	server *grpc.Server
	done   sync.WaitGroup

	mu    sync.Mutex
	calls []string
	last  map[string]any // the last request of each call
}

// Start serves below kubeletDir; volumes are kept in dir.
func Start(kubeletDir, dir string) (*Driver, error) {
	d := &Driver{dir: dir, server: grpc.NewServer(), last: map[string]any{}}
	csi.RegisterIdentityServer(d.server, d)
	csi.RegisterNodeServer(d.server, d)
	registration.RegisterRegistrationServer(d.server, d)
	for _, socket := range []string{filepath.Join(dir, "csi.sock"), filepath.Join(kubeletDir, "plugins_registry", Name+"-reg.sock")} {
		if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
			return nil, err
		}
		listener, err := net.Listen("unix", socket)
		if err != nil {
			return nil, err
		}
		d.done.Go(func() { _ = d.server.Serve(listener) }) // it ends with Stop
	}
	return d, nil
}

// Stop ends the driver and removes its sockets; volumes stay as they are.
func (d *Driver) Stop() {
	d.server.Stop()
	d.done.Wait()
}

func (d *Driver) note(call, volume string, request any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call+" "+volume)
	d.last[call] = request
}

// Calls returns what was asked for a volume, in order, repetitions left out.
func (d *Driver) Calls(volume string) (out []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, line := range d.calls {
		if call, of, _ := strings.Cut(line, " "); of == volume {
			out = append(out, call)
		}
	}
	return slices.Compact(out)
}

// Last returns the last request of a call.
func (d *Driver) Last(call string) any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last[call]
}

// GetInfo is the registration.
func (d *Driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: Name, Endpoint: filepath.Join(d.dir, "csi.sock"), SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus is the registration's end.
func (d *Driver) NotifyRegistrationStatus(_ context.Context, r *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	d.note("Registered", fmt.Sprint(r.PluginRegistered), r)
	return &registration.RegistrationStatusResponse{}, nil
}

// NodeGetInfo names the node.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "node-of-the-driver", MaxVolumesPerNode: 7,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{"topology." + Name + "/zone": "a"}}}, nil
}

// NodeGetCapabilities lists everything there is.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	out := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_GET_VOLUME_STATS, csi.NodeServiceCapability_RPC_EXPAND_VOLUME} {
		out.Capabilities = append(out.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}}})
	}
	return out, nil
}

// NodeStageVolume mounts the volume's directory at the staging path; devices need none.
func (d *Driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	d.note("Stage", r.VolumeId, r)
	if r.VolumeCapability.GetBlock() != nil {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	return &csi.NodeStageVolumeResponse{}, bind(filepath.Join(d.dir, "volumes", r.VolumeId), r.StagingTargetPath)
}

// NodePublishVolume mounts what was staged, or makes the device.
func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.note("Publish", r.VolumeId, r)
	switch {
	case r.VolumeContext["fail"] != "":
		return nil, status.Error(codes.Internal, "told to fail")
	case r.VolumeCapability.GetBlock() != nil:
		const unused = 7<<8 | 200 // a loop device that nothing is behind
		if err := unix.Mknod(r.TargetPath, unix.S_IFBLK|0o600, unused); err != nil && err != unix.EEXIST {
			return nil, status.Error(codes.Internal, err.Error())
		}
		return &csi.NodePublishVolumeResponse{}, nil
	}
	source := r.StagingTargetPath
	if source == "" { // inline
		source = filepath.Join(d.dir, "volumes", r.VolumeId)
	}
	return &csi.NodePublishVolumeResponse{}, bind(source, r.TargetPath)
}

// NodeUnpublishVolume takes the mount or the device away.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.note("Unpublish", r.VolumeId, r)
	if info, err := os.Lstat(r.TargetPath); err == nil && info.Mode()&os.ModeDevice != 0 {
		return &csi.NodeUnpublishVolumeResponse{}, os.Remove(r.TargetPath)
	}
	return &csi.NodeUnpublishVolumeResponse{}, unbind(r.TargetPath)
}

// NodeUnstageVolume takes the staging mount away.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	d.note("Unstage", r.VolumeId, r)
	return &csi.NodeUnstageVolumeResponse{}, unbind(r.StagingTargetPath)
}

// NodeGetVolumeStats invents figures.
func (d *Driver) NodeGetVolumeStats(context.Context, *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: 1000, Used: 123, Available: 877}}}, nil
}

// NodeExpandVolume agrees.
func (d *Driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	d.note("Expand", r.VolumeId, r)
	return &csi.NodeExpandVolumeResponse{CapacityBytes: r.CapacityRange.RequiredBytes}, nil
}

func bind(source, target string) error {
	for _, dir := range []string{source, target} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	if mounted(target) {
		return nil
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return status.Errorf(codes.Internal, "mount %s at %s: %v", source, target, err)
	}
	return nil
}

func unbind(target string) error {
	if !mounted(target) {
		return nil
	}
	if err := unix.Unmount(target, 0); err != nil {
		return status.Errorf(codes.Internal, "unmount %s: %v", target, err)
	}
	return nil
}

func mounted(path string) bool {
	var stat unix.Statx_t
	return unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &stat) == nil && stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
