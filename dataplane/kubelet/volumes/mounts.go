// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
)

// Mounts returns the container's volume mounts; SetUp must have succeeded. vars are the container's environment, for subPathExpr. images
// are the references of image volumes by volume name. uids and gids are the pod's user-namespace mapping, or nil.
func (h *Host) Mounts(ctx context.Context, pod *v1.Pod, container *v1.Container, vars map[string]string, images map[string]string,
	uids, gids []*runtimeapi.IDMapping,
) ([]*runtimeapi.Mount, error) {
	volumes := map[string]*v1.Volume{}
	for i := range pod.Spec.Volumes {
		volumes[pod.Spec.Volumes[i].Name] = &pod.Spec.Volumes[i]
	}
	var out []*runtimeapi.Mount
	for i := range container.VolumeMounts {
		wanted := &container.VolumeMounts[i]
		volume := volumes[wanted.Name]
		if volume == nil {
			return nil, fmt.Errorf("volume %q of mount %s is not in the pod", wanted.Name, wanted.MountPath)
		}
		subPath := wanted.SubPath
		if wanted.SubPathExpr != "" {
			subPath = criconfig.Expand(wanted.SubPathExpr, vars)
			if strings.Contains(subPath, "$(") {
				return nil, fmt.Errorf("subPathExpr %q of volume %q refers to a variable that is not defined", wanted.SubPathExpr, wanted.Name)
			}
		}
		mount := &runtimeapi.Mount{ContainerPath: wanted.MountPath, Readonly: wanted.ReadOnly, Propagation: propagation(wanted.MountPropagation)}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = "/" + mount.ContainerPath
		}
		recursive := wanted.RecursiveReadOnly
		mount.RecursiveReadOnly = wanted.ReadOnly && recursive != nil && *recursive != v1.RecursiveReadOnlyDisabled
		if volume.Image != nil {
			mount.Image, mount.ImageSubPath, mount.Readonly = &runtimeapi.ImageSpec{Image: images[volume.Name]}, subPath, true
			out = append(out, mount)
			continue
		}
		path, err := h.Path(ctx, pod, volume)
		if err != nil {
			return nil, err
		}
		if alwaysReadOnly(volume) {
			mount.Readonly = true
		}
		mount.HostPath = path
		if subPath != "" {
			if mount.HostPath, err = h.subPath(pod, volume.Name, container.Name, i, path, subPath, wanted.ReadOnly); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", wanted.Name, container.Name, err)
			}
		}
		mount.UidMappings, mount.GidMappings = uids, gids
		out = append(out, mount)
	}
	return out, nil
}

// alwaysReadOnly tells that content comes from the API: writing to it would only mislead.
func alwaysReadOnly(volume *v1.Volume) bool {
	return volume.ConfigMap != nil || volume.Secret != nil || volume.DownwardAPI != nil || volume.Projected != nil
}

// Path is where a volume is on the node.
func (h *Host) Path(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (string, error) {
	switch {
	case volume.EmptyDir != nil:
		return h.Dir(pod.UID, "empty-dir", volume.Name), nil
	case volume.ConfigMap != nil:
		return h.Dir(pod.UID, "configmap", volume.Name), nil
	case volume.Secret != nil:
		return h.Dir(pod.UID, "secret", volume.Name), nil
	case volume.DownwardAPI != nil:
		return h.Dir(pod.UID, "downward-api", volume.Name), nil
	case volume.Projected != nil:
		return h.Dir(pod.UID, "projected", volume.Name), nil
	case volume.HostPath != nil:
		return hostPath(volume.HostPath)
	}
	path, _, err := h.bound(ctx, pod, volume)
	return path, err
}

// bound is where a volume of a driver or of a claim is, and whether it is a block device.
func (h *Host) bound(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (path string, device bool, err error) {
	var pv *v1.PersistentVolume
	if volume.CSI == nil {
		if _, pv, err = h.claim(ctx, pod, volume); err != nil {
			return "", false, err
		}
		if pv.Spec.CSI == nil {
			return local(pv)
		}
	}
	if h.CSI == nil {
		return "", false, errors.New("this node has no CSI drivers")
	}
	return h.CSI.Path(pod.UID, volume.Name)
}

// Devices returns the block devices a container asks for; SetUp must have succeeded.
func (h *Host) Devices(ctx context.Context, pod *v1.Pod, container *v1.Container) ([]*runtimeapi.Device, error) {
	var out []*runtimeapi.Device
	for _, wanted := range container.VolumeDevices {
		i := slices.IndexFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.Name == wanted.Name })
		if i < 0 {
			return nil, fmt.Errorf("volume %q of device %s is not in the pod", wanted.Name, wanted.DevicePath)
		}
		path, device, err := h.bound(ctx, pod, &pod.Spec.Volumes[i])
		if err != nil {
			return nil, err
		}
		if !device {
			return nil, fmt.Errorf("volume %q has volumeMode Filesystem, but is used as device %s", wanted.Name, wanted.DevicePath)
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
		permissions := "mrw"
		if claim := pod.Spec.Volumes[i].PersistentVolumeClaim; claim != nil && claim.ReadOnly {
			permissions = "r"
		}
		out = append(out, &runtimeapi.Device{HostPath: path, ContainerPath: wanted.DevicePath, Permissions: permissions})
	}
	return out, nil
}

// hostPath makes a directory where an untyped hostPath names nothing: a bind mount needs something to bind.
func hostPath(volume *v1.HostPathVolumeSource) (string, error) {
	if _, err := os.Stat(volume.Path); errors.Is(err, os.ErrNotExist) && (volume.Type == nil || *volume.Type == v1.HostPathUnset) {
		return volume.Path, os.MkdirAll(volume.Path, 0o755)
	}
	return volume.Path, nil
}

func propagation(mode *v1.MountPropagationMode) runtimeapi.MountPropagation {
	if mode != nil {
		switch *mode {
		case v1.MountPropagationBidirectional:
			return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		case v1.MountPropagationHostToContainer:
			return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// subPath returns a bind mount of what subPath names below volume, making a directory when there is nothing. The kernel resolves the path
// beneath the volume (openat2), and what it found is mounted by file descriptor: links that a container changes meanwhile lead nowhere else.
func (h *Host) subPath(pod *v1.Pod, volume, container string, index int, root, subPath string, readOnly bool) (string, error) {
	if filepath.IsAbs(subPath) || strings.Contains("/"+subPath+"/", "/../") {
		return "", fmt.Errorf("subPath %q must be relative and must not contain '..'", subPath)
	}
	if info, err := os.Stat(root); err == nil && !info.IsDir() {
		return "", fmt.Errorf("volume is not a directory")
	}
	opened, err := openBeneath(root, subPath, !readOnly)
	if errors.Is(err, os.ErrNotExist) && readOnly {
		opened, err = openBeneath(root, subPath, true)
	}
	if err != nil {
		return "", fmt.Errorf("subPath %q: %w", subPath, err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return "", err
	}
	target := filepath.Join(h.PodDir(pod.UID), "volume-subpaths", volume, container, strconv.Itoa(index))
	if mounted, err := isMountPoint(target); err == nil && mounted { // of an earlier instance: what it shows may be gone
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return "", fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	if err := makeTarget(target, info.IsDir()); err != nil {
		return "", err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(int(opened.Fd())), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind mount at %s: %w", target, err)
	}
	return target, nil
}

func makeTarget(target string, dir bool) error {
	if info, err := os.Lstat(target); err == nil {
		if info.IsDir() == dir {
			return nil
		}
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if dir {
		return os.Mkdir(target, 0o750)
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	return file.Close()
}

// openBeneath opens what path names below root without ever leaving it, and makes missing directories when asked.
func openBeneath(root, path string, create bool) (*os.File, error) {
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(rootFD)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(rootFD, path, how)
	if errors.Is(err, unix.ENOENT) && create {
		if err := makeBeneath(rootFD, path); err != nil {
			return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
		}
		fd, err = unix.Openat2(rootFD, path, how)
	}
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(root, path)), nil
}

// makeBeneath makes the missing directories of path with the mode and owner of the volume's root.
func makeBeneath(rootFD int, path string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(rootFD, &stat); err != nil {
		return err
	}
	done := ""
	for part := range strings.SplitSeq(filepath.Clean(path), "/") {
		parent := rootFD
		how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
		if done != "" {
			fd, err := unix.Openat2(rootFD, done, how)
			if err != nil {
				return err
			}
			parent = fd
		}
		err := unix.Mkdirat(parent, part, 0o750)
		if err == nil {
			// The parent is held open and the name was just made by us; a container that replaces it by a link meets AT_SYMLINK_NOFOLLOW.
			err = errors.Join(unix.Fchownat(parent, part, int(stat.Uid), int(stat.Gid), unix.AT_SYMLINK_NOFOLLOW), chmodBeneath(parent, part, stat.Mode&0o7777))
		} else if errors.Is(err, unix.EEXIST) {
			err = nil
		}
		if parent != rootFD {
			unix.Close(parent)
		}
		if err != nil {
			return err
		}
		done = filepath.Join(done, part)
	}
	return nil
}

func chmodBeneath(parent int, name string, mode uint32) error {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode)
}
