// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// Storage holds the objects that volumes resolve through, and what was decided about them and is not in the API yet.
type Storage struct {
	claims   map[string]*v1.PersistentVolumeClaim // by namespace/name
	volumes  map[string]*v1.PersistentVolume
	classes  map[string]*storagev1.StorageClass
	drivers  map[string]*storagev1.CSIDriver
	nodes    map[string]*storagev1.CSINode
	capacity map[string]*storagev1.CSIStorageCapacity // by namespace/name
	byClass  map[string]map[string]*v1.PersistentVolume
	version  uint64

	assumedVolumes map[string]string // by volume: the claim it will be bound to
	assumedClaims  map[string]string // by claim: the node it will be provisioned for
	users          map[string]int    // by claim: pods on nodes
}

func newStorage() *Storage {
	return &Storage{claims: map[string]*v1.PersistentVolumeClaim{}, volumes: map[string]*v1.PersistentVolume{}, classes: map[string]*storagev1.StorageClass{},
		drivers: map[string]*storagev1.CSIDriver{}, nodes: map[string]*storagev1.CSINode{}, capacity: map[string]*storagev1.CSIStorageCapacity{},
		byClass: map[string]map[string]*v1.PersistentVolume{}, assumedVolumes: map[string]string{}, assumedClaims: map[string]string{}, users: map[string]int{}}
}

// Version changes with every change of a volume, class, driver or capacity, and with every assumption. Claims are compared one by one instead.
func (s *Storage) Version() uint64 { return s.version }

// Claim returns the claim namespace/name, or nil.
func (s *Storage) Claim(key string) *v1.PersistentVolumeClaim { return s.claims[key] }

// Volume returns a volume, or nil.
func (s *Storage) Volume(name string) *v1.PersistentVolume { return s.volumes[name] }

// Class returns a storage class, or nil.
func (s *Storage) Class(name string) *storagev1.StorageClass { return s.classes[name] }

// CSINode returns what drivers say about a node, or nil.
func (s *Storage) CSINode(name string) *storagev1.CSINode { return s.nodes[name] }

// Users returns how many pods on nodes use a claim.
func (s *Storage) Users(claim string) int { return s.users[claim] }

// VolumesOfClass calls f for the volumes of a storage class that are not assumed for another claim.
func (s *Storage) VolumesOfClass(class, claim string, f func(*v1.PersistentVolume)) {
	for name, pv := range s.byClass[class] {
		if taken, ok := s.assumedVolumes[name]; !ok || taken == claim {
			f(pv)
		}
	}
}

// Selected returns the node for which a claim is being provisioned, or "".
func (s *Storage) Selected(claim string) string {
	if node, ok := s.assumedClaims[claim]; ok {
		return node
	}
	if pvc := s.claims[claim]; pvc != nil {
		return pvc.Annotations[volume.AnnSelectedNode]
	}
	return ""
}

// ChecksCapacity reports whether a driver publishes how much it can provision where.
func (s *Storage) ChecksCapacity(driver string) bool {
	d := s.drivers[driver]
	return d != nil && d.Spec.StorageCapacity != nil && *d.Spec.StorageCapacity
}

// Capacities calls f for the published capacities of a storage class, until f returns false.
func (s *Storage) Capacities(class string, f func(*storagev1.CSIStorageCapacity) bool) {
	for _, c := range s.capacity {
		if c.StorageClassName == class && !f(c) {
			return
		}
	}
}

// Driver returns which CSI driver attaches a claim's volume, or "" if none does or it is not known.
func (s *Storage) Driver(claim string) string {
	pvc := s.claims[claim]
	if pvc == nil {
		return ""
	}
	if pv := s.volumes[pvc.Spec.VolumeName]; pv != nil {
		if pv.Spec.CSI != nil {
			return pv.Spec.CSI.Driver
		}
		return ""
	}
	if class := s.classes[volume.GetPersistentVolumeClaimClass(pvc)]; class != nil {
		return class.Provisioner
	}
	return ""
}

// AssumeVolume keeps a volume for a claim until the API has it; AssumeClaim notes the node that a claim is provisioned for. Release takes both back.
func (s *Storage) AssumeVolume(pv, claim string) {
	s.assumedVolumes[pv] = claim
	s.version++
}

// AssumeClaim notes the node that a claim will be provisioned for.
func (s *Storage) AssumeClaim(claim, node string) {
	s.assumedClaims[claim] = node
	s.version++
}

// Release takes back what was assumed for a claim.
func (s *Storage) Release(claim string) {
	delete(s.assumedClaims, claim)
	for pv, c := range s.assumedVolumes {
		if c == claim {
			delete(s.assumedVolumes, pv)
		}
	}
	s.version++
}

// SetClaim adds or updates a claim.
func (s *Storage) SetClaim(pvc *v1.PersistentVolumeClaim) { s.claims[pvc.Namespace+"/"+pvc.Name] = pvc }

// DeleteClaim removes a claim.
func (s *Storage) DeleteClaim(pvc *v1.PersistentVolumeClaim) {
	delete(s.claims, pvc.Namespace+"/"+pvc.Name)
}

// SetVolume adds or updates a volume.
func (s *Storage) SetVolume(pv *v1.PersistentVolume) {
	s.DeleteVolume(pv)
	s.volumes[pv.Name] = pv
	class := volume.GetPersistentVolumeClass(pv)
	if s.byClass[class] == nil {
		s.byClass[class] = map[string]*v1.PersistentVolume{}
	}
	s.byClass[class][pv.Name] = pv
}

// DeleteVolume removes a volume.
func (s *Storage) DeleteVolume(pv *v1.PersistentVolume) {
	s.version++
	if old := s.volumes[pv.Name]; old != nil {
		class := volume.GetPersistentVolumeClass(old)
		delete(s.byClass[class], pv.Name)
		if len(s.byClass[class]) == 0 {
			delete(s.byClass, class)
		}
	}
	delete(s.volumes, pv.Name)
}

// SetClass adds or updates a storage class; nil with a name deletes it. SetDriver and SetCapacity do the same for their kinds.
func (s *Storage) SetClass(name string, class *storagev1.StorageClass) {
	set(s, s.classes, name, class)
}

// SetDriver adds, updates or (nil) deletes a CSI driver.
func (s *Storage) SetDriver(name string, d *storagev1.CSIDriver) { set(s, s.drivers, name, d) }

// SetCapacity adds, updates or (nil) deletes a capacity, by namespace/name.
func (s *Storage) SetCapacity(key string, c *storagev1.CSIStorageCapacity) {
	set(s, s.capacity, key, c)
}

func set[T any](s *Storage, m map[string]*T, name string, obj *T) {
	s.version++
	if obj == nil {
		delete(m, name)
	} else {
		m[name] = obj
	}
}

// SetCSINode adds, updates or (nil) deletes what drivers say about a node, and notes the node as changed.
func (s *State) SetCSINode(name string, n *storagev1.CSINode) *Node {
	if n == nil {
		delete(s.Storage.nodes, name)
	} else {
		s.Storage.nodes[name] = n
	}
	node := s.Node(name)
	if node != nil {
		s.touch(node.Index)
	}
	return node
}

// claimKeys lists the claims (namespace/name) that a pod's volumes use.
func claimKeys(pod *v1.Pod) []string {
	var keys []string
	for i := range pod.Spec.Volumes {
		switch vol := &pod.Spec.Volumes[i]; {
		case vol.PersistentVolumeClaim != nil:
			keys = append(keys, pod.Namespace+"/"+vol.PersistentVolumeClaim.ClaimName)
		case vol.Ephemeral != nil:
			keys = append(keys, pod.Namespace+"/"+ephemeral.VolumeClaimName(pod, vol))
		}
	}
	return keys
}

// Uses reports whether a pod on the node uses the claim (namespace/name).
func (n *Node) Uses(claim string) bool { return n.claims[claim] > 0 }

// Claims calls f for each claim that pods on the node use.
func (n *Node) Claims(f func(claim string)) {
	for claim := range n.claims {
		f(claim)
	}
}

// Claims returns the claims that the pod uses. It must not be changed.
func (p *Pod) Claims() []string { return p.claims }

func (s *State) useClaims(n *Node, p *Pod, sign int) {
	for _, claim := range p.claims {
		if n.claims[claim] += sign; n.claims[claim] == 0 {
			delete(n.claims, claim)
		}
		if s.Storage.users[claim] += sign; s.Storage.users[claim] == 0 {
			delete(s.Storage.users, claim)
		}
	}
}
