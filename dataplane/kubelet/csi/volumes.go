// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Volumes makes volumes of CSI drivers. Build it with New. Safe for concurrent use.
type Volumes struct {
	*Drivers
	Root string // the kubelet's directory
	// Tokens returns the tokens a driver asks for, as the JSON it gets them in.
	Tokens func(ctx context.Context, pod *v1.Pod, requests []storagev1.TokenRequest) (string, error)
	// InUse is called when the set of volumes in use changes. May be nil.
	InUse func()

	mu    sync.Mutex
	locks map[string]*volumeLock       // by volume
	users map[string]map[string]string // by volume: publish paths, with the lifecycle
}

// volumeLock serialises what is done for one volume, of whatever pod.
type volumeLock struct {
	sync.Mutex
	waiting int
}

// New reads from disk which volumes are in use.
func New(drivers *Drivers, root string) (*Volumes, error) {
	v := &Volumes{Drivers: drivers, Root: root, locks: map[string]*volumeLock{}, users: map[string]map[string]string{}}
	records, err := podRecords(filepath.Join(escape(root), "pods", "*"))
	for _, r := range records {
		v.use(r)
	}
	return v, err
}

func (v *Volumes) lock(id string) (unlock func()) {
	v.mu.Lock()
	l := v.locks[id]
	if l == nil {
		l = &volumeLock{}
		v.locks[id] = l
	}
	l.waiting++
	v.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		v.mu.Lock()
		defer v.mu.Unlock()
		if l.waiting--; l.waiting == 0 {
			delete(v.locks, id)
		}
	}
}

func (v *Volumes) use(r *record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := r.volumeID()
	if v.users[id] == nil {
		v.users[id] = map[string]string{}
	}
	v.users[id][r.Target] = r.Lifecycle
}

// unuse returns how many users are left.
func (v *Volumes) unuse(r *record) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := r.volumeID()
	delete(v.users[id], r.Target)
	left := len(v.users[id])
	if left == 0 {
		delete(v.users, id)
	}
	return left
}

// Names are the volumes in use, as the node's status lists them: those must not be detached.
func (v *Volumes) Names() (out []v1.UniqueVolumeName) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, targets := range v.users {
		for _, lifecycle := range targets {
			if lifecycle == string(storagev1.VolumeLifecyclePersistent) {
				out = append(out, v1.UniqueVolumeName("kubernetes.io/csi/"+id))
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

// request is one volume, inline or persistent, in one form.
type request struct {
	record
	attributes             map[string]string
	fsType                 string
	readOnly               bool
	options                []string
	modes                  []v1.PersistentVolumeAccessMode
	stage, publish, expand *v1.SecretReference
	object                 *storagev1.CSIDriver
	capacity               int64
	publishContext         map[string]string
}

func (v *Volumes) request(pod *v1.Pod, volume *v1.Volume, pv *v1.PersistentVolume) (*request, error) {
	if inline := volume.CSI; inline != nil {
		sum := sha256.Sum256([]byte(string(pod.UID) + volume.Name))
		r := &request{record: record{Driver: inline.Driver, Spec: volume.Name, Handle: "csi-" + hex.EncodeToString(sum[:]), Lifecycle: string(storagev1.VolumeLifecycleEphemeral)},
			attributes: inline.VolumeAttributes, readOnly: inline.ReadOnly != nil && *inline.ReadOnly, modes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}}
		if inline.FSType != nil {
			r.fsType = *inline.FSType
		}
		if ref := inline.NodePublishSecretRef; ref != nil {
			r.publish = &v1.SecretReference{Name: ref.Name, Namespace: pod.Namespace}
		}
		return r, nil
	}
	if pv == nil || pv.Spec.CSI == nil {
		return nil, errors.New("not a CSI volume")
	}
	source := pv.Spec.CSI
	capacity := pv.Spec.Capacity[v1.ResourceStorage]
	r := &request{record: record{Driver: source.Driver, Spec: pv.Name, Handle: source.VolumeHandle, Lifecycle: string(storagev1.VolumeLifecyclePersistent)},
		attributes: source.VolumeAttributes, fsType: source.FSType, readOnly: source.ReadOnly, options: pv.Spec.MountOptions, modes: pv.Spec.AccessModes,
		stage: source.NodeStageSecretRef, publish: source.NodePublishSecretRef, expand: source.NodeExpandSecretRef, capacity: capacity.Value()}
	if claim := volume.PersistentVolumeClaim; claim != nil && claim.ReadOnly {
		r.readOnly = true
	}
	r.Block = pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == v1.PersistentVolumeBlock
	return r, nil
}

// SetUp publishes a volume for the pod. Called again it does nothing, unless the driver asks to be called again or the volume grew. pv is nil for an
// inline volume. It returns the group the volume's content shall be given to, if that is not the driver's work.
func (v *Volumes) SetUp(ctx context.Context, pod *v1.Pod, volume *v1.Volume, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) (applyGroup bool, err error) {
	r, err := v.request(pod, volume, pv)
	if err != nil {
		return false, err
	}
	if err := validName(r.Driver, r.Spec); err != nil {
		return false, err
	}
	d, err := v.get(r.Driver)
	if err != nil {
		return false, err
	}
	if r.object, err = v.object(ctx, r.Driver); err != nil {
		return false, err
	}
	if !supports(r.object, storagev1.VolumeLifecycleMode(r.Lifecycle)) {
		return false, fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object that lists it)", r.Lifecycle, r.Driver)
	}
	defer v.lock(r.volumeID())()
	r.Node, r.PodVolume, r.dir = v.NodeName, volume.Name, v.recordDir(pod.UID, r.Spec, r.Block)
	r.Target = v.publishPath(pod.UID, r.Spec, r.Block)
	done := v.published(&r.record)
	republish := r.object != nil && r.object.Spec.RequiresRepublish != nil && *r.object.Spec.RequiresRepublish
	if !done || republish {
		if err := v.publishVolume(ctx, pod, d, r); err != nil {
			return false, err
		}
	}
	if claim != nil && !r.readOnly {
		if err := v.grow(ctx, d, r, claim); err != nil {
			return false, err
		}
	}
	return !done && !r.Block && v.groupIsOurs(d, r), nil
}

// validName keeps names that become directories from leading elsewhere.
func validName(names ...string) error {
	for _, name := range names {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("%q cannot name a volume or driver", name)
		}
	}
	return nil
}

func supports(object *storagev1.CSIDriver, mode storagev1.VolumeLifecycleMode) bool {
	if object == nil || len(object.Spec.VolumeLifecycleModes) == 0 {
		return mode == storagev1.VolumeLifecyclePersistent
	}
	return slices.Contains(object.Spec.VolumeLifecycleModes, mode)
}

// published tells whether the driver has done its work already: its target is mounted, or is the device.
func (v *Volumes) published(r *record) bool {
	if _, err := os.Stat(filepath.Join(r.dir, recordFile)); err != nil {
		return false
	}
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, r.Target, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &stat); err != nil {
		return false
	}
	return r.Block || stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// publishVolume stages and publishes.
func (v *Volumes) publishVolume(ctx context.Context, pod *v1.Pod, d *driver, r *request) error {
	secrets, err := v.secrets(ctx, r.publish)
	if err != nil {
		return err
	}
	context, err := v.volumeContext(ctx, pod, r)
	if err != nil {
		return err
	}
	v.use(&r.record) // from here on the volume must not be detached
	if v.InUse != nil {
		v.InUse()
	}
	if r.Lifecycle == string(storagev1.VolumeLifecyclePersistent) && (r.object == nil || r.object.Spec.AttachRequired == nil || *r.object.Spec.AttachRequired) {
		if r.publishContext, err = v.attached(ctx, r); err != nil {
			return err
		}
	}
	capability := v.capability(pod, d, r)
	staging, err := v.stageVolume(ctx, d, r, capability)
	if err != nil {
		return err
	}
	if err := r.record.write(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.Target), 0o750); err != nil {
		return err
	}
	_, err = d.node.NodePublishVolume(ctx, &csiapi.NodePublishVolumeRequest{
		VolumeId: r.Handle, PublishContext: r.publishContext, StagingTargetPath: staging, TargetPath: r.Target, VolumeCapability: capability,
		Readonly: r.readOnly, Secrets: secrets, VolumeContext: context,
	})
	if err != nil {
		return fmt.Errorf("CSI driver %s publishes volume %s: %w", r.Driver, r.Handle, err)
	}
	return nil
}

// stageVolume has the driver stage the volume, if it wants to, and returns where.
func (v *Volumes) stageVolume(ctx context.Context, d *driver, r *request, capability *csiapi.VolumeCapability) (string, error) {
	if !d.can[csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] || r.Lifecycle != string(storagev1.VolumeLifecyclePersistent) {
		return "", nil
	}
	secrets, err := v.secrets(ctx, r.stage)
	if err != nil {
		return "", err
	}
	dir := v.stagingDir(r.Driver, r.Handle)
	staged := r.record
	staged.dir, staged.Target, staged.PodVolume = dir, filepath.Join(dir, "globalmount"), ""
	if err := staged.write(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(staged.Target, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	_, err = d.node.NodeStageVolume(ctx, &csiapi.NodeStageVolumeRequest{
		VolumeId: r.Handle, PublishContext: r.publishContext, StagingTargetPath: staged.Target, VolumeCapability: capability, Secrets: secrets, VolumeContext: r.attributes,
	})
	if err != nil {
		return "", fmt.Errorf("CSI driver %s stages volume %s: %w", r.Driver, r.Handle, err)
	}
	return staged.Target, nil
}

// TearDown unpublishes all volumes of a pod, and unstages those that no other pod uses.
func (v *Volumes) TearDown(ctx context.Context, uid types.UID) error {
	records, err := podRecords(escape(v.podDir(uid)))
	problems := []error{err}
	for _, r := range records {
		problems = append(problems, v.unpublish(ctx, r))
	}
	return errors.Join(problems...)
}

func (v *Volumes) unpublish(ctx context.Context, r *record) error {
	d, err := v.get(r.Driver)
	if err != nil {
		return fmt.Errorf("volume %s cannot be taken away: %w", r.Spec, err)
	}
	defer v.lock(r.volumeID())()
	_, err = d.node.NodeUnpublishVolume(ctx, &csiapi.NodeUnpublishVolumeRequest{VolumeId: r.Handle, TargetPath: r.Target})
	if err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("CSI driver %s unpublishes volume %s: %w", r.Driver, r.Handle, err)
	}
	if err := os.Remove(r.Target); err != nil && !os.IsNotExist(err) { // a directory with anything in it, or mounted, stays
		return fmt.Errorf("CSI driver %s left something at %s: %w", r.Driver, r.Target, err)
	}
	if r.Block {
		_ = os.Remove(filepath.Dir(r.Target)) // of the last pod
	}
	if err := r.remove(); err != nil {
		return err
	}
	if v.unuse(r) > 0 {
		return nil
	}
	err = v.unstage(ctx, r.Driver, r.Handle)
	if v.InUse != nil {
		v.InUse()
	}
	return err
}

// unstage takes the staging of a volume away; its lock is held.
func (v *Volumes) unstage(ctx context.Context, name, handle string) error {
	dir := v.stagingDir(name, handle)
	records, err := readRecords(filepath.Join(escape(dir), recordFile))
	if err != nil || len(records) == 0 {
		return err
	}
	d, err := v.get(name)
	if err != nil {
		return fmt.Errorf("volume %s cannot be unstaged: %w", handle, err)
	}
	r := records[0]
	_, err = d.node.NodeUnstageVolume(ctx, &csiapi.NodeUnstageVolumeRequest{VolumeId: handle, StagingTargetPath: r.Target})
	if err != nil && status.Code(err) != codes.NotFound {
		return fmt.Errorf("CSI driver %s unstages volume %s: %w", name, handle, err)
	}
	if err := os.Remove(r.Target); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("CSI driver %s left something at %s: %w", name, r.Target, err)
	}
	return r.remove()
}

// Sweep unstages what a crash left staged without a user.
func (v *Volumes) Sweep(ctx context.Context) error {
	staged, err := readRecords(filepath.Join(escape(v.Root), "plugins/kubernetes.io/csi/*/*", recordFile))
	problems := []error{err}
	for _, r := range staged {
		if _, err := v.get(r.Driver); err != nil {
			continue // later
		}
		unlock := v.lock(r.volumeID())
		v.mu.Lock()
		used := len(v.users[r.volumeID()]) > 0
		v.mu.Unlock()
		if !used {
			problems = append(problems, v.unstage(ctx, r.Driver, r.Handle))
		}
		unlock()
	}
	return errors.Join(problems...)
}

// Path is where a pod's volume is published, and whether it is a device.
func (v *Volumes) Path(uid types.UID, volume string) (path string, block bool, err error) {
	r, err := v.find(uid, volume)
	if err != nil {
		return "", false, err
	}
	return r.Target, r.Block, nil
}

func (v *Volumes) find(uid types.UID, volume string) (*record, error) {
	records, err := podRecords(escape(v.podDir(uid)))
	for _, r := range records {
		if r.PodVolume == volume {
			return r, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("volume %q is not published", volume)
	}
	return nil, err
}

// Stats asks the driver how full a volume is; nil when it does not tell.
func (v *Volumes) Stats(ctx context.Context, uid types.UID, volume string) *statsapi.FsStats {
	r, err := v.find(uid, volume)
	if err != nil {
		return nil
	}
	d, err := v.get(r.Driver)
	if err != nil || !d.can[csiapi.NodeServiceCapability_RPC_GET_VOLUME_STATS] {
		return nil
	}
	response, err := d.node.NodeGetVolumeStats(ctx, &csiapi.NodeGetVolumeStatsRequest{VolumeId: r.Handle, VolumePath: r.Target})
	if err != nil {
		return nil
	}
	out := &statsapi.FsStats{Time: metav1.Now()}
	for _, usage := range response.Usage {
		available, total, used := uint64(max(usage.Available, 0)), uint64(max(usage.Total, 0)), uint64(max(usage.Used, 0))
		switch usage.Unit {
		case csiapi.VolumeUsage_BYTES:
			out.AvailableBytes, out.CapacityBytes, out.UsedBytes = &available, &total, &used
		case csiapi.VolumeUsage_INODES:
			out.InodesFree, out.Inodes, out.InodesUsed = &available, &total, &used
		}
	}
	return out
}

// volumeContext is the volume's attributes with what the driver wants to know of the pod.
func (v *Volumes) volumeContext(ctx context.Context, pod *v1.Pod, r *request) (map[string]string, error) {
	out := map[string]string{}
	for name, value := range r.attributes {
		out[name] = value
	}
	if r.object == nil {
		return out, nil
	}
	if about := r.object.Spec.PodInfoOnMount; about != nil && *about {
		out["csi.storage.k8s.io/pod.name"], out["csi.storage.k8s.io/pod.namespace"] = pod.Name, pod.Namespace
		out["csi.storage.k8s.io/pod.uid"], out["csi.storage.k8s.io/serviceAccount.name"] = string(pod.UID), pod.Spec.ServiceAccountName
		out["csi.storage.k8s.io/ephemeral"] = strconv.FormatBool(r.Lifecycle == string(storagev1.VolumeLifecycleEphemeral))
	}
	if len(r.object.Spec.TokenRequests) > 0 && v.Tokens != nil {
		tokens, err := v.Tokens(ctx, pod, r.object.Spec.TokenRequests)
		if err != nil {
			return nil, err
		}
		out["csi.storage.k8s.io/serviceAccount.tokens"] = tokens
	}
	return out, nil
}

func (v *Volumes) secrets(ctx context.Context, ref *v1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := v.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s of a CSI volume: %w", ref.Namespace, ref.Name, err)
	}
	out := map[string]string{}
	for name, value := range secret.Data {
		out[name] = string(value)
	}
	return out, nil
}
