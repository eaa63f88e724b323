// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
)

// expectationsTimeout bounds how long a lost event can hold a controller back.
const expectationsTimeout = 5 * time.Minute

// Expectations remember, per owner, the creations and deletions a controller has asked the API server for and has not yet seen in its informer.
// While any is outstanding the informer's picture is older than the controller's own writes, and acting on it would create or delete
// twice. Creations are counted (their names are not known before the call), deletions are kept by UID, because one deletion gives several events.
//
// A controller raises expectations before it writes, lowers them in its event handlers, and lowers them itself for each write that failed.
type Expectations struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	owner map[string]*expectation
}

type expectation struct {
	creates int
	deletes sets.Set[types.UID]
	raised  time.Time
}

// NewExpectations returns a set without expectations.
func NewExpectations(clk clock.PassiveClock) *Expectations {
	return &Expectations{clock: clk, owner: map[string]*expectation{}}
}

// Satisfied reports whether everything expected of key was seen, or is overdue by so much that it must have been missed.
func (e *Expectations) Satisfied(key string) bool { return e.Wait(key) == 0 }

// Wait is how long what is expected of key can hold it back at most; 0 when it is satisfied. Informers do not resync: a controller that is held back
// by a lost event has to come back by itself then.
func (e *Expectations) Wait(key string) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.owner[key]
	if x == nil || x.creates <= 0 && len(x.deletes) == 0 {
		return 0
	}
	return max(0, expectationsTimeout-e.clock.Since(x.raised))
}

// Expect announces creates creations and the deletion of uids. It replaces what was expected before, which the caller has found satisfied.
func (e *Expectations) Expect(key string, creates int, uids ...types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.owner[key] = &expectation{creates: creates, deletes: sets.New(uids...), raised: e.clock.Now()}
}

// Created says that one creation was seen, or failed.
func (e *Expectations) Created(key string) { e.CreatedN(key, 1) }

// CreatedN says that n creations were seen, failed, or were not tried.
func (e *Expectations) CreatedN(key string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.owner[key]; x != nil {
		x.creates -= n
	}
}

// Deleted says that the deletion of uid was seen, or failed. A uid nobody expects is ignored.
func (e *Expectations) Deleted(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.owner[key]; x != nil {
		x.deletes.Delete(uid)
	}
}

// Forget drops the expectations of an owner that is gone.
func (e *Expectations) Forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.owner, key)
}

// Raise adds creates creations and the deletion of uids to what is expected of key.
func (e *Expectations) Raise(key string, creates int, uids ...types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.owner[key]
	if x == nil {
		x = &expectation{deletes: sets.New[types.UID]()}
		e.owner[key] = x
	}
	x.creates, x.raised = max(0, x.creates)+creates, e.clock.Now()
	x.deletes.Insert(uids...)
}
