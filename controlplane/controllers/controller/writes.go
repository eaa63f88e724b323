// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/utils/clock"
)

// writesTimeout bounds how long an object that was deleted right after a write, so that no informer ever shows it, holds its owner back.
const writesTimeout = 30 * time.Second

// Writes remember which version of which object a controller wrote last for an owner, so that it does not decide on a cache older than its own writes.
// Where Expectations count what is created, Writes know the very objects: they suit few, named, long-lived ones.
type Writes struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	owner map[string]map[types.UID]write
}

type write struct {
	name, version string
	at            time.Time
}

// NewWrites returns an empty memory.
func NewWrites(clk clock.PassiveClock) *Writes {
	return &Writes{clock: clk, owner: map[string]map[types.UID]write{}}
}

// Wrote remembers obj as the API server returned it from a create or update for owner.
func (w *Writes) Wrote(owner string, obj metav1.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owner[owner] == nil {
		w.owner[owner] = map[types.UID]write{}
	}
	w.owner[owner][obj.GetUID()] = write{obj.GetName(), obj.GetResourceVersion(), w.clock.Now()}
}

// Seen reports whether the cache shows all that was written for owner: get returns the cached object of a name, or nil.
func (w *Writes) Seen(owner string, get func(name string) metav1.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid, wrote := range w.owner[owner] {
		obj := get(wrote.name)
		switch {
		case obj != nil && obj.GetUID() != uid: // the name was taken by a later object
		case obj != nil && atLeast(obj.GetResourceVersion(), wrote.version):
		case obj == nil && w.clock.Since(wrote.at) > writesTimeout, w.clock.Since(wrote.at) > expectationsTimeout:
		default:
			return false
		}
		delete(w.owner[owner], uid)
	}
	delete(w.owner, owner)
	return true
}

// Forget drops what is remembered for an owner that is gone.
func (w *Writes) Forget(owner string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.owner, owner)
}

// atLeast compares resource versions; ones that are not numbers can only be equal.
func atLeast(have, want string) bool {
	c, err := resourceversion.CompareResourceVersion(have, want)
	if err != nil {
		return have == want
	}
	return c >= 0
}
