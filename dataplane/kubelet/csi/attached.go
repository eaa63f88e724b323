// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	attachWait = time.Minute // then the pod's events say so, and it is waited for again
	attachPoll = 250 * time.Millisecond
)

// attached waits until the controllers have attached the volume, and returns what its driver said of that.
func (v *Volumes) attached(ctx context.Context, r *request) (map[string]string, error) {
	sum := sha256.Sum256([]byte(r.Handle + r.Driver + v.NodeName))
	name := "csi-" + hex.EncodeToString(sum[:])
	ctx, cancel := context.WithTimeout(ctx, attachWait)
	defer cancel()
	for {
		attachment, err := v.Client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil && attachment.Status.Attached && attachment.DeletionTimestamp == nil:
			return attachment.Status.AttachmentMetadata, nil
		case err == nil && attachment.Status.AttachError != nil:
			return nil, fmt.Errorf("volume %s is not attached: %s", r.Spec, attachment.Status.AttachError.Message)
		case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && ctx.Err() == nil: // forbidden: the authorizer has not seen it yet
			return nil, fmt.Errorf("attachment of volume %s: %w", r.Spec, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("volume %s is not attached to this node yet (VolumeAttachment %s)", r.Spec, name)
		case <-time.After(attachPoll):
		}
	}
}

// capability is how the volume is to be used.
func (v *Volumes) capability(pod *v1.Pod, d *driver, r *request) *csiapi.VolumeCapability {
	out := &csiapi.VolumeCapability{AccessMode: &csiapi.VolumeCapability_AccessMode{Mode: accessMode(r, d.can[csiapi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER])}}
	if r.Block {
		out.AccessType = &csiapi.VolumeCapability_Block{Block: &csiapi.VolumeCapability_BlockVolume{}}
		return out
	}
	mount := &csiapi.VolumeCapability_MountVolume{FsType: r.fsType, MountFlags: r.options}
	if group := fsGroup(pod); group != nil && d.can[csiapi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP] {
		mount.VolumeMountGroup = fmt.Sprint(*group)
	}
	out.AccessType = &csiapi.VolumeCapability_Mount{Mount: mount}
	return out
}

func accessMode(r *request, multiWriter bool) csiapi.VolumeCapability_AccessMode_Mode {
	has := func(mode v1.PersistentVolumeAccessMode) bool { return slices.Contains(r.modes, mode) }
	switch {
	case has(v1.ReadWriteMany):
		return csiapi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case has(v1.ReadOnlyMany) && has(v1.ReadWriteOnce):
		return csiapi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	case has(v1.ReadOnlyMany):
		return csiapi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case has(v1.ReadWriteOncePod) && multiWriter:
		return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case multiWriter && has(v1.ReadWriteOnce):
		return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return csiapi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// groupIsOurs tells whether the kubelet gives the volume's content to the pod's fsGroup: by the driver's policy, and not where the driver does it.
func (v *Volumes) groupIsOurs(d *driver, r *request) bool {
	if d.can[csiapi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP] || r.readOnly {
		return false
	}
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if r.object != nil && r.object.Spec.FSGroupPolicy != nil {
		policy = *r.object.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.FileFSGroupPolicy:
		return true
	case storagev1.NoneFSGroupPolicy:
		return false
	}
	return r.fsType != "" && (slices.Contains(r.modes, v1.ReadWriteOnce) || slices.Contains(r.modes, v1.ReadWriteOncePod))
}

// grow has the driver make the filesystem as large as the volume has become, and says so in the claim.
func (v *Volumes) grow(ctx context.Context, d *driver, r *request, claim *v1.PersistentVolumeClaim) error {
	has := claim.Status.Capacity[v1.ResourceStorage]
	if !d.can[csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME] || has.IsZero() || has.Value() >= r.capacity {
		return nil
	}
	secrets, err := v.secrets(ctx, r.expand)
	if err != nil {
		return err
	}
	staging := ""
	if d.can[csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		staging = v.stagingDir(r.Driver, r.Handle) + "/globalmount"
	}
	response, err := d.node.NodeExpandVolume(ctx, &csiapi.NodeExpandVolumeRequest{
		VolumeId: r.Handle, VolumePath: r.Target, StagingTargetPath: staging, CapacityRange: &csiapi.CapacityRange{RequiredBytes: r.capacity},
		VolumeCapability: v.capability(&v1.Pod{}, d, r), Secrets: secrets,
	})
	if err != nil {
		return fmt.Errorf("CSI driver %s expands volume %s: %w", r.Driver, r.Handle, err)
	}
	grown := max(response.CapacityBytes, r.capacity)
	conditions := slices.DeleteFunc(slices.Clone(claim.Status.Conditions), func(c v1.PersistentVolumeClaimCondition) bool {
		return c.Type == v1.PersistentVolumeClaimFileSystemResizePending || c.Type == v1.PersistentVolumeClaimResizing
	})
	if conditions == nil {
		conditions = []v1.PersistentVolumeClaimCondition{}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": claim.ResourceVersion},
		"status": map[string]any{"capacity": map[string]string{string(v1.ResourceStorage): resource.NewQuantity(grown, resource.BinarySI).String()},
			"conditions": conditions, "allocatedResourceStatuses": map[string]any{string(v1.ResourceStorage): nil}},
	})
	if err != nil {
		return err
	}
	if _, err := v.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("capacity of claim %s after its volume grew: %w", claim.Name, err)
	}
	return nil
}
