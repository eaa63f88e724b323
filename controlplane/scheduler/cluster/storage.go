// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// AttachKey names one volume that a CSI driver attaches to a node; pods that share the volume share the attachment.
type AttachKey struct{ Driver, Handle string }

// Storage holds the objects that volumes resolve through.
type Storage struct {
	Claims   map[string]*v1.PersistentVolumeClaim // by namespace/name
	Volumes  map[string]*v1.PersistentVolume
	Classes  map[string]*storagev1.StorageClass
	Drivers  map[string]*storagev1.CSIDriver
	Nodes    map[string]*storagev1.CSINode
	Capacity map[string]*storagev1.CSIStorageCapacity // by namespace/name
	byClass  map[string]map[string]*v1.PersistentVolume
	version  uint64
}

func newStorage() *Storage {
	return &Storage{Claims: map[string]*v1.PersistentVolumeClaim{}, Volumes: map[string]*v1.PersistentVolume{}, Classes: map[string]*storagev1.StorageClass{},
		Drivers: map[string]*storagev1.CSIDriver{}, Nodes: map[string]*storagev1.CSINode{}, Capacity: map[string]*storagev1.CSIStorageCapacity{}}
}

func (s *State) attachments(pod *v1.Pod) []AttachKey { return nil }

// Uses reports whether a pod on the node uses the claim (namespace/name).
func (n *Node) Uses(claim string) bool { return n.claims[claim] > 0 }
