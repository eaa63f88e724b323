// SPDX-License-Identifier: Apache-2.0

package volumebinder

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// known remembers volumes as this process wrote them last, until the cache shows them so: one that is given away must not look free to the next claim, nor to the
// same claim when its binding is tried again. The zero value is ready for use, by several goroutines.
type known struct {
	mu      sync.Mutex
	volumes map[string]*corev1.PersistentVolume // by name, as the API server returned them
}

// wrote remembers pv as the API server returned it.
func (k *known) wrote(pv *corev1.PersistentVolume) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.volumes == nil {
		k.volumes = map[string]*corev1.PersistentVolume{}
	}
	if had := k.volumes[pv.Name]; had == nil || newer(pv, had) {
		k.volumes[pv.Name] = pv
	}
}

// newest returns the later of the cache's pv and what was written. Neither may be changed.
func (k *known) newest(pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	k.mu.Lock()
	defer k.mu.Unlock()
	had := k.volumes[pv.Name]
	if had != nil && newer(had, pv) {
		return had
	}
	delete(k.volumes, pv.Name)
	return pv
}

// forget drops what is remembered of a volume that is gone.
func (k *known) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.volumes, name)
}

// newer reports whether a is a later version of the same volume than b, or of a later volume of its name.
func newer(a, b *corev1.PersistentVolume) bool {
	c, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && c > 0
}
