// SPDX-License-Identifier: Apache-2.0

// Package attachdetach asks CSI drivers to attach volumes to the nodes whose pods use them, and to detach them when the last such pod is gone.
//
// It watches Pods, Nodes, PersistentVolumeClaims, PersistentVolumes, CSIDrivers and VolumeAttachments. It creates and deletes VolumeAttachments, which the
// driver's attacher acts on, and writes status.volumesAttached of nodes, for which the kubelet waits. A volume is not detached while the node says that it is
// in use, unless the node has been silent about it for six minutes and is not ready.
package attachdetach

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const forceAfter = 6 * time.Minute

type loop struct {
	c           *controller.Context
	queue       *controller.Queue // of node names
	nodes       corelisters.NodeLister
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	drivers     storagelisters.CSIDriverLister
	attachments cache.Indexer
	podsOn      func(string) []*corev1.Pod
	synced      []cache.InformerSynced

	mu     sync.Mutex
	unused map[string]time.Time // attachments without a pod, since when
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("attachdetach-controller", "attachdetach-controller")
	pods, nodes := c.Informers.Core().V1().Pods(), c.Informers.Core().V1().Nodes()
	claims, volumes := c.Informers.Core().V1().PersistentVolumeClaims(), c.Informers.Core().V1().PersistentVolumes()
	drivers, attachments := c.Informers.Storage().V1().CSIDrivers(), c.Informers.Storage().V1().VolumeAttachments()
	l := &loop{
		c: c, nodes: nodes.Lister(), claims: claims.Lister(), volumes: volumes.Lister(), drivers: drivers.Lister(),
		podsOn: controller.PodsByNode(pods.Informer()), unused: map[string]time.Time{},
		attachments: controller.Index(attachments.Informer(), "fairlead/attached-node", func(obj any) ([]string, error) {
			if a, ok := obj.(*storagev1.VolumeAttachment); ok {
				return []string{a.Spec.NodeName}, nil
			}
			return nil, nil
		}),
		synced: []cache.InformerSynced{
			pods.Informer().HasSynced, nodes.Informer().HasSynced, claims.Informer().HasSynced, volumes.Informer().HasSynced,
			drivers.Informer().HasSynced, attachments.Informer().HasSynced,
		},
	}
	l.queue = c.Queue("attachdetach", l.sync)
	controller.Watch(pods.Informer(), func(_, obj any) {
		if pod, ok := controller.Object[*corev1.Pod](obj); ok && pod.Spec.NodeName != "" && slices.ContainsFunc(pod.Spec.Volumes, fromClaim) {
			l.queue.Add(pod.Spec.NodeName)
		}
	})
	controller.Watch(nodes.Informer(), func(old, obj any) {
		was, _ := controller.Object[*corev1.Node](old)
		node, ok := controller.Object[*corev1.Node](obj)
		if ok && (was == nil || old == obj || !slices.Equal(was.Status.VolumesInUse, node.Status.VolumesInUse) ||
			!equality.Semantic.DeepEqual(was.Status.VolumesAttached, node.Status.VolumesAttached)) {
			l.queue.Add(node.Name)
		}
	})
	controller.On(attachments.Informer(), func(obj any) {
		if a, ok := controller.Object[*storagev1.VolumeAttachment](obj); ok {
			l.queue.Add(a.Spec.NodeName)
		}
	})
	controller.Watch(claims.Informer(), func(_, obj any) { // a claim that gets its volume after its pod was bound
		if claim, ok := controller.Object[*corev1.PersistentVolumeClaim](obj); ok && claim.Annotations["volume.kubernetes.io/selected-node"] != "" {
			l.queue.Add(claim.Annotations["volume.kubernetes.io/selected-node"])
		}
	})
	return l
}

func fromClaim(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync brings one node's attachments in line with its pods.
func (l *loop) sync(ctx context.Context, name string) error {
	wanted := map[string]*storagev1.VolumeAttachment{}
	var missing error
	for _, pod := range l.podsOn(name) {
		if controller.Finished(pod) {
			continue
		}
		for i := range pod.Spec.Volumes {
			a, err := l.attachment(pod, &pod.Spec.Volumes[i])
			if err != nil {
				missing = cmp.Or(missing, err) // the others are not held up
			} else if a != nil {
				wanted[a.Name] = a
			}
		}
	}
	have := map[string]*storagev1.VolumeAttachment{}
	objs, err := l.attachments.ByIndex("fairlead/attached-node", name)
	if err != nil {
		return err
	}
	for _, obj := range objs {
		if a, ok := obj.(*storagev1.VolumeAttachment); ok {
			have[a.Name] = a
		}
	}
	for id, a := range wanted {
		l.used(id)
		if have[id] != nil {
			continue
		}
		if _, err := l.c.Client.StorageV1().VolumeAttachments().Create(ctx, a, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("attach volume %s to node %s: %w", *a.Spec.Source.PersistentVolumeName, name, err)
		}
	}
	node, err := l.nodes.Get(name)
	if controller.IgnoreNotFound(err) != nil {
		return err
	}
	for id, a := range have {
		if wanted[id] != nil || a.DeletionTimestamp != nil || a.Spec.Source.PersistentVolumeName == nil || id != attachmentName(a, l.handle(a)) {
			continue // needed, on its way, or somebody else's
		}
		if wait := l.mayDetach(node, a); wait > 0 {
			l.queue.AddAfter(name, wait)
			continue
		}
		if err := l.c.Client.StorageV1().VolumeAttachments().Delete(ctx, id, metav1.DeleteOptions{}); controller.IgnoreNotFound(err) != nil {
			return err
		}
	}
	if node == nil {
		return missing
	}
	return cmp.Or(l.report(ctx, node, have), missing)
}

// attachment is the VolumeAttachment that a pod's volume needs, nil when it needs none.
func (l *loop) attachment(pod *corev1.Pod, v *corev1.Volume) (*storagev1.VolumeAttachment, error) {
	var claimName string
	switch {
	case v.PersistentVolumeClaim != nil:
		claimName = v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		claimName = ephemeral.VolumeClaimName(pod, v)
	default:
		return nil, nil
	}
	claim, err := l.claims.PersistentVolumeClaims(pod.Namespace).Get(claimName)
	if err != nil || claim.Spec.VolumeName == "" {
		return nil, controller.IgnoreNotFound(err) // its events bring us back
	}
	pv, err := l.volumes.Get(claim.Spec.VolumeName)
	if err != nil {
		return nil, err
	}
	if pv.Spec.CSI == nil {
		return nil, nil
	}
	driver, err := l.drivers.Get(pv.Spec.CSI.Driver)
	if err == nil && driver.Spec.AttachRequired != nil && !*driver.Spec.AttachRequired {
		return nil, nil
	} else if controller.IgnoreNotFound(err) != nil {
		return nil, err
	}
	a := &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{
		Attacher: pv.Spec.CSI.Driver, NodeName: pod.Spec.NodeName, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv.Name},
	}}
	a.Name = attachmentName(a, pv.Spec.CSI.VolumeHandle)
	return a, nil
}

// attachmentName is the name under which the kubelet's CSI volumes look for the attachment: fixed by volume, driver and node.
func attachmentName(a *storagev1.VolumeAttachment, handle string) string {
	sum := sha256.Sum256([]byte(handle + a.Spec.Attacher + a.Spec.NodeName))
	return "csi-" + hex.EncodeToString(sum[:])
}

func (l *loop) handle(a *storagev1.VolumeAttachment) string {
	pv, err := l.volumes.Get(*a.Spec.Source.PersistentVolumeName)
	if err != nil || pv.Spec.CSI == nil {
		return ""
	}
	return pv.Spec.CSI.VolumeHandle
}

func (l *loop) uniqueName(a *storagev1.VolumeAttachment) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + a.Spec.Attacher + "^" + l.handle(a))
}

func (l *loop) used(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.unused, id)
}

// mayDetach is how long a detachment has to wait for the kubelet to unmount, 0 for not at all.
func (l *loop) mayDetach(node *corev1.Node, a *storagev1.VolumeAttachment) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if node == nil {
		delete(l.unused, a.Name)
		return 0
	}
	now := l.c.Clock.Now()
	since, known := l.unused[a.Name]
	if !known {
		l.unused[a.Name], since = now, now
	}
	outOfService := slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
	inUse := slices.Contains(node.Status.VolumesInUse, l.uniqueName(a))
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	switch left := since.Add(forceAfter).Sub(now); {
	case !inUse || outOfService || !ready && left <= 0:
		delete(l.unused, a.Name)
		return 0
	case ready:
		return forceAfter // the node's next status brings us back sooner
	default:
		return left
	}
}

// report writes status.volumesAttached: what is attached, and what is being detached no longer.
func (l *loop) report(ctx context.Context, node *corev1.Node, have map[string]*storagev1.VolumeAttachment) error {
	var list []corev1.AttachedVolume
	for _, a := range have {
		if a.Status.Attached && a.DeletionTimestamp == nil && a.Spec.Source.PersistentVolumeName != nil {
			list = append(list, corev1.AttachedVolume{Name: l.uniqueName(a), DevicePath: ""})
		}
	}
	slices.SortFunc(list, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	if slices.Equal(list, node.Status.VolumesAttached) || len(list)+len(node.Status.VolumesAttached) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": node.UID}, "status": map[string]any{"volumesAttached": list}})
	if err != nil {
		return err
	}
	_, err = l.c.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return controller.IgnoreNotFound(err)
}
