// SPDX-License-Identifier: Apache-2.0

// Package csi is the node's side of the Container Storage Interface: it keeps the drivers that registered here, tells the cluster of them
// (CSINode), and has them make pods' volumes and take them away.
//
//	plugins.Watcher ──▶ Drivers ──▶ CSINode, topology labels
//	                       │
//	volumes.Host ──▶ Volumes: stage ─▶ publish ─▶ (expand, statistics) ─▶ unpublish ─▶ unstage
//
// What was done for each volume is in a file beside it (vol_data.json), written before the driver is called: after a crash at any point everything
// is found again and taken away in order. Attaching volumes to the node is the controllers' work; here it is waited for.
package csi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/kubelet/plugins"
)

const (
	callTimeout   = 2 * time.Minute
	objectTTL     = 10 * time.Second // a CSIDriver object is read again after this
	nodeIDsByName = "csi.volume.kubernetes.io/nodeid"
)

// Drivers are the CSI drivers of this node. It handles plugins of kind CSIPlugin. Safe for concurrent use.
type Drivers struct {
	Client   kubernetes.Interface
	NodeName string

	group plugins.Group[*driver]

	mu      sync.Mutex
	objects map[string]kept
	update  sync.Mutex // one change of CSINode at a time
}

type driver struct {
	name, nodeID string
	connection   *grpc.ClientConn
	node         csiapi.NodeClient
	can          map[csiapi.NodeServiceCapability_RPC_Type]bool
}

// kept is a CSIDriver object, nil when there is none, with when it was read.
type kept struct {
	object *storagev1.CSIDriver
	at     time.Time
}

// Register implements plugins.Handler.
func (d *Drivers) Register(ctx context.Context, p plugins.Plugin) error {
	if !slices.ContainsFunc(p.Versions, func(v string) bool { return len(v) > 1 && (v[:2] == "1." || len(v) > 2 && v[:3] == "v1.") }) {
		return fmt.Errorf("CSI driver %s: none of its versions %v is 1.x", p.Name, p.Versions)
	}
	connection, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	one := &driver{name: p.Name, connection: connection, node: csiapi.NewNodeClient(connection), can: map[csiapi.NodeServiceCapability_RPC_Type]bool{}}
	if err := d.introduce(ctx, one); err != nil {
		connection.Close()
		return err
	}
	d.group.Put(p, one)
	return nil
}

// introduce asks a driver about itself and tells the cluster.
func (d *Drivers) introduce(ctx context.Context, one *driver) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := one.node.NodeGetInfo(ctx, &csiapi.NodeGetInfoRequest{})
	if err != nil {
		return fmt.Errorf("CSI driver %s: what is this node to it: %w", one.name, err)
	}
	one.nodeID = info.NodeId
	capabilities, err := one.node.NodeGetCapabilities(ctx, &csiapi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return fmt.Errorf("CSI driver %s: its capabilities: %w", one.name, err)
	}
	for _, c := range capabilities.Capabilities {
		one.can[c.GetRpc().GetType()] = true
	}
	entry := storagev1.CSINodeDriver{Name: one.name, NodeID: info.NodeId, TopologyKeys: slices.Sorted(maps.Keys(info.GetAccessibleTopology().GetSegments()))}
	if info.MaxVolumesPerNode > 0 {
		count := int32(min(info.MaxVolumesPerNode, 1<<31-1))
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	if err := d.labelNode(ctx, one, info.GetAccessibleTopology().GetSegments()); err != nil {
		return err
	}
	return d.change(ctx, func(list []storagev1.CSINodeDriver) []storagev1.CSINodeDriver {
		return append(without(list, one.name), entry)
	})
}

func without(list []storagev1.CSINodeDriver, name string) []storagev1.CSINodeDriver {
	return slices.DeleteFunc(slices.Clone(list), func(e storagev1.CSINodeDriver) bool { return e.Name == name })
}

// Deregister implements plugins.Handler.
func (d *Drivers) Deregister(p plugins.Plugin) {
	one, found, left := d.group.Take(p)
	if !found {
		return
	}
	one.connection.Close()
	if left {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := d.change(ctx, func(list []storagev1.CSINodeDriver) []storagev1.CSINodeDriver { return without(list, p.Name) }); err != nil {
		klog.FromContext(ctx).Error(err, "A CSI driver that is gone is still in CSINode", "driver", p.Name)
	}
}

// change edits the drivers of this node's CSINode, which it makes if need be.
func (d *Drivers) change(ctx context.Context, edit func([]storagev1.CSINodeDriver) []storagev1.CSINodeDriver) error {
	d.update.Lock()
	defer d.update.Unlock()
	api := d.Client.StorageV1().CSINodes()
	err := retry.OnError(retry.DefaultBackoff, func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }, func() error {
		old, err := api.Get(ctx, d.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			node, err := d.Client.CoreV1().Nodes().Get(ctx, d.NodeName, metav1.GetOptions{})
			if err != nil {
				return err
			}
			fresh := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: d.NodeName, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID},
			}}}
			fresh.Spec.Drivers = edit(nil)
			_, err = api.Create(ctx, fresh, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		updated := old.DeepCopy()
		updated.Spec.Drivers = edit(old.Spec.Drivers)
		_, err = api.Update(ctx, updated, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("CSINode %s: %w", d.NodeName, err)
	}
	return nil
}

// labelNode writes what the driver calls this node, and where it says the node is.
func (d *Drivers) labelNode(ctx context.Context, one *driver, segments map[string]string) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := d.Client.CoreV1().Nodes().Get(ctx, d.NodeName, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("node %s: %w", d.NodeName, err)
		}
		ids := map[string]string{}
		if old := node.Annotations[nodeIDsByName]; old != "" {
			if err := json.Unmarshal([]byte(old), &ids); err != nil {
				ids = map[string]string{} // not ours to keep
			}
		}
		ids[one.name] = one.nodeID
		text, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		metadata := map[string]any{"annotations": map[string]string{nodeIDsByName: string(text)}}
		if len(segments) > 0 { // null would take all labels away
			metadata["labels"] = segments
		}
		patch, err := json.Marshal(map[string]any{"metadata": metadata})
		if err != nil {
			return err
		}
		if _, err := d.Client.CoreV1().Nodes().Patch(ctx, d.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("topology labels of node %s by CSI driver %s: %w", d.NodeName, one.name, err)
		}
		return nil
	})
}

func (d *Drivers) get(name string) (*driver, error) {
	one, ok := d.group.Get(name)
	if !ok {
		return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
	}
	return one, nil
}

// object reads a driver's CSIDriver, nil when the cluster has none.
func (d *Drivers) object(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	d.mu.Lock()
	k, ok := d.objects[name]
	d.mu.Unlock()
	if ok && time.Since(k.at) < objectTTL {
		return k.object, nil
	}
	object, err := d.Client.StorageV1().CSIDrivers().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		object = nil
	case err != nil:
		return nil, fmt.Errorf("CSIDriver %s: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.objects == nil {
		d.objects = map[string]kept{}
	}
	d.objects[name] = kept{object, time.Now()}
	return object, nil
}

// Close ends the connections; what is registered stays so in the cluster.
func (d *Drivers) Close() {
	for _, one := range d.group.All() {
		one.connection.Close()
	}
}
