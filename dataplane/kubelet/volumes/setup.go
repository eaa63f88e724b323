// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead/fairlead/dataplane/kubelet/downward"
)

const tearDownTimeout = 2 * time.Minute

// Host makes volumes on this node.
type Host struct {
	Root   string // <Root>/pods is ours
	Source Source
	// CSI makes volumes of drivers. Nil: there are none.
	CSI Drivers
	// Observe is told how long steps of volumes' lives took, by plugin and operation. May be nil.
	Observe func(plugin, operation string, took time.Duration, err error)
}

// Drivers make volumes with programs outside this process. SetUp and TearDown may be called again at any time, also after a crash.
type Drivers interface {
	// SetUp makes one volume; pv and claim are nil for an inline one. applyGroup tells that the caller gives its content to the pod's fsGroup.
	SetUp(ctx context.Context, pod *v1.Pod, volume *v1.Volume, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) (applyGroup bool, err error)
	// Path is where a volume of a pod is, and whether it is a block device.
	Path(uid types.UID, volume string) (path string, block bool, err error)
	// TearDown takes all volumes of a pod away.
	TearDown(ctx context.Context, uid types.UID) error
}

func (h *Host) observe(plugin, operation string, started time.Time, err error) {
	if h.Observe != nil {
		h.Observe(plugin, operation, time.Since(started), err)
	}
}

// PodDir is where everything of a pod is.
func (h *Host) PodDir(uid types.UID) string { return filepath.Join(h.Root, "pods", string(uid)) }

// Dir is where a volume of a pod is.
func (h *Host) Dir(uid types.UID, plugin, volume string) string {
	return filepath.Join(h.PodDir(uid), "volumes", "kubernetes.io~"+plugin, volume)
}

// SetUp makes all volumes of the pod and brings those with content from the API up to date.
func (h *Host) SetUp(ctx context.Context, pod *v1.Pod, facts downward.Facts) error {
	if err := os.MkdirAll(h.PodDir(pod.UID), 0o750); err != nil {
		return err
	}
	var problems []error
	for i := range pod.Spec.Volumes {
		started := time.Now()
		err := h.setUp(ctx, pod, &pod.Spec.Volumes[i], facts)
		h.observe(Plugin(&pod.Spec.Volumes[i]), "volume_mount", started, err)
		if err != nil {
			problems = append(problems, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", pod.Spec.Volumes[i].Name, err))
		}
	}
	return errors.Join(problems...)
}

func (h *Host) setUp(ctx context.Context, pod *v1.Pod, volume *v1.Volume, facts downward.Facts) error {
	c := &content{ctx: ctx, pod: pod, source: h.Source, facts: facts, files: map[string]File{}}
	switch {
	case volume.EmptyDir != nil:
		return h.emptyDir(pod, volume)
	case volume.HostPath != nil:
		return checkHostPath(volume.HostPath)
	case volume.Image != nil:
		return nil // the runtime mounts it
	case volume.ConfigMap != nil:
		if err := c.configMap(volume.ConfigMap.Name, volume.ConfigMap.Items, defaultMode(volume.ConfigMap.DefaultMode), volume.ConfigMap.Optional); err != nil {
			return err
		}
		return h.write(pod, "configmap", volume.Name, c.files, false)
	case volume.Secret != nil:
		if err := c.secret(volume.Secret.SecretName, volume.Secret.Items, defaultMode(volume.Secret.DefaultMode), volume.Secret.Optional); err != nil {
			return err
		}
		return h.write(pod, "secret", volume.Name, c.files, true)
	case volume.DownwardAPI != nil:
		if err := c.downward(volume.DownwardAPI.Items, defaultMode(volume.DownwardAPI.DefaultMode)); err != nil {
			return err
		}
		return h.write(pod, "downward-api", volume.Name, c.files, true)
	case volume.Projected != nil:
		if err := c.projected(volume.Projected); err != nil {
			return err
		}
		return h.write(pod, "projected", volume.Name, c.files, true)
	case volume.CSI != nil:
		return h.driven(ctx, pod, volume, nil, nil)
	case volume.PersistentVolumeClaim != nil, volume.Ephemeral != nil:
		claim, pv, err := h.claim(ctx, pod, volume)
		if err == nil && pv.Spec.CSI != nil {
			return h.driven(ctx, pod, volume, claim, pv)
		}
		if err == nil && pv.Spec.Local != nil && !block(pv) {
			err = applyFSGroup(pv.Spec.Local.Path, pod)
		}
		if err == nil && pv.Spec.HostPath != nil {
			err = checkHostPath(pv.Spec.HostPath)
		}
		if err == nil {
			_, _, err = local(pv)
		}
		return err
	}
	return errors.New("this kind of volume is not supported")
}

// Plugin is the name that a volume's plugin has in Kubernetes.
func Plugin(v *v1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "kubernetes.io/empty-dir"
	case v.ConfigMap != nil:
		return "kubernetes.io/configmap"
	case v.Secret != nil:
		return "kubernetes.io/secret"
	case v.Projected != nil:
		return "kubernetes.io/projected"
	case v.DownwardAPI != nil:
		return "kubernetes.io/downward-api"
	case v.HostPath != nil:
		return "kubernetes.io/host-path"
	case v.Image != nil:
		return "kubernetes.io/image"
	case v.CSI != nil:
		return "kubernetes.io/csi:" + v.CSI.Driver
	}
	return "kubernetes.io/persistent-claim"
}

// ClaimName is the claim a volume is bound by, empty for other volumes.
func ClaimName(pod *v1.Pod, volume *v1.Volume) string {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		return pod.Name + "-" + volume.Name
	}
	return ""
}

// claim returns the claim a volume is bound by, with the persistent volume.
func (h *Host) claim(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error) {
	claim, pv, err := h.Source.Claim(ctx, pod.Namespace, ClaimName(pod, volume))
	if err == nil && volume.Ephemeral != nil && !metav1.IsControlledBy(claim, pod) {
		err = fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
	}
	return claim, pv, err
}

// driven has a driver make the volume.
func (h *Host) driven(ctx context.Context, pod *v1.Pod, volume *v1.Volume, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) error {
	if h.CSI == nil {
		return errors.New("this node has no CSI drivers")
	}
	applyGroup, err := h.CSI.SetUp(ctx, pod, volume, claim, pv)
	if err != nil || !applyGroup {
		return err
	}
	path, _, err := h.CSI.Path(pod.UID, volume.Name)
	if err != nil {
		return err
	}
	return applyFSGroup(path, pod)
}

func block(pv *v1.PersistentVolume) bool {
	return pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == v1.PersistentVolumeBlock
}

// local is where a volume is that needs no driver, and whether it is a block device.
func local(pv *v1.PersistentVolume) (path string, device bool, err error) {
	switch {
	case pv.Spec.Local != nil:
		info, err := os.Stat(pv.Spec.Local.Path)
		if err == nil && block(pv) != (info.Mode()&os.ModeDevice != 0) {
			err = fmt.Errorf("persistent volume %s: %s is %s, which does not fit its volumeMode", pv.Name, pv.Spec.Local.Path, info.Mode())
		}
		return pv.Spec.Local.Path, block(pv), err
	case pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path, false, nil
	}
	return "", false, fmt.Errorf("persistent volume %q needs a driver that this node does not have", pv.Name)
}

func (h *Host) emptyDir(pod *v1.Pod, volume *v1.Volume) error {
	dir := h.Dir(pod.UID, "empty-dir", volume.Name)
	if _, err := os.Stat(dir); err == nil && volume.EmptyDir.Medium == v1.StorageMediumDefault {
		return nil
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	switch medium := volume.EmptyDir.Medium; {
	case medium == v1.StorageMediumMemory:
		options := ""
		if limit := volume.EmptyDir.SizeLimit; limit != nil && limit.Sign() > 0 {
			options = fmt.Sprintf("size=%d", limit.Value())
		}
		if err := mountOnce("tmpfs", dir, "tmpfs", options); err != nil {
			return err
		}
	case strings.HasPrefix(string(medium), string(v1.StorageMediumHugePages)):
		options := ""
		if size, ok := strings.CutPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)); ok {
			options = "pagesize=" + strings.TrimSuffix(size, "i")
		}
		if err := mountOnce("nodev", dir, "hugetlbfs", options); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	return applyFSGroup(dir, pod)
}

// write makes a volume from files, in memory when they are secret.
func (h *Host) write(pod *v1.Pod, plugin, volume string, files map[string]File, inMemory bool) error {
	dir := h.Dir(pod.UID, plugin, volume)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if inMemory {
		if err := mountOnce("tmpfs", dir, "tmpfs", "mode=1777"); err != nil {
			return err
		}
	}
	gid := fsGroup(pod)
	if gid != nil {
		for name, file := range files {
			file.Mode |= 0o440
			files[name] = file
		}
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		return err
	}
	return WriteAtomically(dir, files, gid)
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// applyFSGroup gives everything below dir to the pod's fsGroup, group-writable, and lets new files inherit it.
func applyFSGroup(dir string, pod *v1.Pod) error {
	gid := fsGroup(pod)
	if gid == nil {
		return nil
	}
	if policy := pod.Spec.SecurityContext.FSGroupChangePolicy; policy != nil && *policy == v1.FSGroupChangeOnRootMismatch {
		var stat unix.Stat_t
		if err := unix.Stat(dir, &stat); err == nil && int64(stat.Gid) == *gid && stat.Mode&unix.S_ISGID != 0 && stat.Mode&0o060 == 0o060 {
			return nil
		}
	}
	return filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(name, -1, int(*gid)); err != nil {
			return err
		}
		if entry.Type()&os.ModeSymlink != 0 {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o660
		if info.IsDir() {
			mode |= os.ModeSetgid | 0o110
		}
		return os.Chmod(name, mode|info.Mode()&os.ModeSticky)
	})
}

// checkHostPath makes what the type asks for and refuses what does not match it.
func checkHostPath(volume *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if volume.Type != nil {
		kind = *volume.Type
	}
	switch kind {
	case v1.HostPathUnset:
		return nil
	case v1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(volume.Path); errors.Is(err, os.ErrNotExist) {
			return os.MkdirAll(volume.Path, 0o755)
		}
	case v1.HostPathFileOrCreate:
		file, err := os.OpenFile(volume.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err == nil {
			file.Close()
		}
	}
	info, err := os.Stat(volume.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	mode := info.Mode()
	matches := map[v1.HostPathType]bool{
		v1.HostPathDirectory: mode.IsDir(), v1.HostPathDirectoryOrCreate: mode.IsDir(), v1.HostPathFile: mode.IsRegular(),
		v1.HostPathFileOrCreate: mode.IsRegular(), v1.HostPathSocket: mode&os.ModeSocket != 0,
		v1.HostPathCharDev:  mode&os.ModeCharDevice != 0,
		v1.HostPathBlockDev: mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0,
	}
	if !matches[kind] {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", volume.Path, describe(kind))
	}
	return nil
}

func describe(kind v1.HostPathType) string {
	switch kind {
	case v1.HostPathCharDev:
		return "character device"
	case v1.HostPathBlockDev:
		return "block device"
	case v1.HostPathSocket:
		return "socket file"
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		return "file"
	}
	return "directory"
}

// mountOnce mounts a filesystem at dir unless something is mounted there.
func mountOnce(source, dir, kind, options string) error {
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount(source, dir, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", kind, dir, err)
	}
	return nil
}

// isMountPoint asks the kernel (statx); it does not follow a link.
func isMountPoint(dir string) (bool, error) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &stat); err != nil {
		return false, &os.PathError{Op: "statx", Path: dir, Err: err}
	}
	return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// TearDown unmounts everything of the pod and removes its directory. It may be called again; a pod that has nothing is no error.
func (h *Host) TearDown(uid types.UID) error {
	dir := h.PodDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(filepath.Join(dir, "volume-subpaths")); err != nil {
		return err
	}
	if h.CSI != nil {
		ctx, cancel := context.WithTimeout(context.Background(), tearDownTimeout)
		defer cancel()
		if err := h.CSI.TearDown(ctx, uid); err != nil {
			return err
		}
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	// Only what SetUp and Mounts made: a mount that could not be taken away must never be emptied.
	if points, err := mountsBelow(dir); err != nil || len(points) > 0 {
		return errors.Join(err, fmt.Errorf("still mounted below %s: %v", dir, points))
	}
	return os.RemoveAll(dir)
}

// Orphans lists pods that have a directory.
func (h *Host) Orphans() ([]types.UID, error) {
	entries, err := os.ReadDir(filepath.Join(h.Root, "pods"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var out []types.UID
	for _, entry := range entries {
		out = append(out, types.UID(entry.Name()))
	}
	return out, err
}

func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	var problems []error
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW); errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
			if err != nil {
				problems = append(problems, fmt.Errorf("unmount %s: %w", point, err))
			}
		} else if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			problems = append(problems, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(problems...)
}

// mountsBelow lists mount points below dir in the order they were mounted.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 {
			if point := mountEscapes.Replace(fields[4]); strings.HasPrefix(point, dir+"/") {
				out = append(out, point)
			}
		}
	}
	return out, nil
}

var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
