// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Index knows which node needs which object. A row is added when a pod is bound and removed when it is gone or finished.
type Index struct {
	mu   sync.RWMutex
	pods map[object]podRow
	// users counts the pods of each node that use an object.
	users map[object]map[string]int
	// volumes are the persistent volumes by name; secretVolumes names those that need a secret to be mounted.
	volumes       map[string]volumeRow
	secretVolumes map[object]map[string]struct{}
	attachments   map[string]string // volume attachment -> node

	synced []cache.InformerSynced
}

type podRow struct {
	node string
	uses map[object]struct{}
}

type volumeRow struct {
	claim   object
	secrets []object
}

// NewIndex fills an index from the informers of factory, which the caller starts.
func NewIndex(factory informers.SharedInformerFactory) (*Index, error) {
	x := newIndex()
	pods := factory.Core().V1().Pods().Informer()
	volumes := factory.Core().V1().PersistentVolumes().Informer()
	attachments := factory.Storage().V1().VolumeAttachments().Informer()
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		pods:        handle(x.setPod, x.deletePod),
		volumes:     handle(x.setVolume, x.deleteVolume),
		attachments: handle(x.setAttachment, x.deleteAttachment),
	} {
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		x.synced = append(x.synced, registration.HasSynced)
	}
	return x, nil
}

func newIndex() *Index {
	return &Index{
		pods: map[object]podRow{}, users: map[object]map[string]int{}, volumes: map[string]volumeRow{},
		secretVolumes: map[object]map[string]struct{}{}, attachments: map[string]string{},
	}
}

// HasSynced reports whether everything that existed at start is in the index.
func (x *Index) HasSynced() bool {
	for _, f := range x.synced {
		if !f() {
			return false
		}
	}
	return true
}

func handle[T any](set, remove func(T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(obj.(T)) },
		UpdateFunc: func(_, obj any) { set(obj.(T)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(T); ok {
				remove(o)
			}
		},
	}
}

func podObject(pod *corev1.Pod) object { return object{"pods", pod.Namespace, pod.Name} }

func (x *Index) setPod(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return // a binding is never taken back, so there is no row to remove
	}
	row := podRow{node: pod.Spec.NodeName, uses: podUses(pod)}
	x.mu.Lock()
	defer x.mu.Unlock()
	if old, ok := x.pods[podObject(pod)]; ok && old.node == row.node && maps.Equal(old.uses, row.uses) {
		return
	}
	x.removePod(podObject(pod))
	x.pods[podObject(pod)] = row
	for o := range row.uses {
		if x.users[o] == nil {
			x.users[o] = map[string]int{}
		}
		x.users[o][row.node]++
	}
}

func (x *Index) deletePod(pod *corev1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removePod(podObject(pod))
}

func (x *Index) removePod(key object) {
	row, ok := x.pods[key]
	if !ok {
		return
	}
	delete(x.pods, key)
	for o := range row.uses {
		if x.users[o][row.node]--; x.users[o][row.node] == 0 {
			delete(x.users[o], row.node)
		}
		if len(x.users[o]) == 0 {
			delete(x.users, o)
		}
	}
}

func (x *Index) setVolume(pv *corev1.PersistentVolume) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeVolume(pv.Name)
	if pv.Spec.ClaimRef == nil {
		return
	}
	row := volumeRow{claim: object{claims, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name}, secrets: volumeSecrets(pv)}
	x.volumes[pv.Name] = row
	for _, s := range row.secrets {
		if x.secretVolumes[s] == nil {
			x.secretVolumes[s] = map[string]struct{}{}
		}
		x.secretVolumes[s][pv.Name] = struct{}{}
	}
}

func (x *Index) deleteVolume(pv *corev1.PersistentVolume) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeVolume(pv.Name)
}

func (x *Index) removeVolume(name string) {
	for _, s := range x.volumes[name].secrets {
		delete(x.secretVolumes[s], name)
		if len(x.secretVolumes[s]) == 0 {
			delete(x.secretVolumes, s)
		}
	}
	delete(x.volumes, name)
}

func (x *Index) setAttachment(va *storagev1.VolumeAttachment) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.attachments[va.Name] = va.Spec.NodeName
}

func (x *Index) deleteAttachment(va *storagev1.VolumeAttachment) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.attachments, va.Name)
}

// uses reports whether a pod on node refers to o, or o is a secret with which a volume of such a pod is mounted.
func (x *Index) uses(node string, o object) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.users[o][node] > 0 {
		return true
	}
	for pv := range x.secretVolumes[o] {
		if x.users[x.volumes[pv].claim][node] > 0 {
			return true
		}
	}
	return false
}

// usesVolume reports whether a pod on node uses the persistent volume name through its claim.
func (x *Index) usesVolume(node, name string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	row, ok := x.volumes[name]
	return ok && x.users[row.claim][node] > 0
}

func (x *Index) attachedTo(node, attachment string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.attachments[attachment] == node
}

func (x *Index) podOn(node, namespace, name string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.pods[object{"pods", namespace, name}].node == node
}
