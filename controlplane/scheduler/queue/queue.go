// SPDX-License-Identifier: Apache-2.0

// Package queue holds the pods that want a node. A pod is in one of four places:
//
//	active         to be tried, the most important first: by priority, then start deadline, then age
//	backoff        to be tried again when its back-off has passed
//	unschedulable  no node would do; waits for an event that its rejectors care about (Wake), or five minutes
//	gated          has scheduling gates
//
// Between Pop and Remove, Park or Retry a pod is in none of them. The queue is not safe for concurrent use, starts no goroutine and knows no clock: callers
// pass the time.
package queue

import (
	"container/heap"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

// Place is where a pod waits.
type Place uint8

const (
	InFlight Place = iota // being tried or bound
	Active
	Backoff
	Unschedulable
	Gated
)

// Item is one pod that wants a node.
type Item struct {
	placement.Request
	Attempts int
	Rejected placement.PluginSet // by whom, in the last attempt
	Added    time.Time           // first seen
	Deadline time.Time           // by when it should have a node; zero: none
	Message  string              // of the last attempt
	Late     bool                // the deadline has passed

	priority int32
	tried    time.Time // end of the last attempt
	ready    time.Time // end of back-off
	order    uint64
	place    Place
	index    int // in the heap of its place
	dueIndex int // in the deadline heap, -1 if not there
}

// Place returns where the item is.
func (i *Item) Place() Place { return i.place }

// Options set the queue's times.
type Options struct {
	InitialBackoff   time.Duration // after the first failure; doubles with each
	MaxBackoff       time.Duration
	MaxUnschedulable time.Duration // then a pod is tried again without an event
}

// DefaultOptions are Kubernetes' values.
var DefaultOptions = Options{InitialBackoff: time.Second, MaxBackoff: 10 * time.Second, MaxUnschedulable: 5 * time.Minute}

// Queue holds pods that want a node.
type Queue struct {
	opts    Options
	items   map[types.UID]*Item
	active  *orderedHeap
	backoff *orderedHeap
	due     *dueHeap
	parked  map[*placement.Class]map[*Item]struct{}
	gated   int
	order   uint64
	swept   time.Time
}

// New returns an empty queue.
func New(opts Options) *Queue {
	return &Queue{opts: opts, items: map[types.UID]*Item{}, parked: map[*placement.Class]map[*Item]struct{}{}, due: &dueHeap{},
		active: &orderedHeap{less: moreImportant}, backoff: &orderedHeap{less: func(a, b *Item) bool { return a.ready.Before(b.ready) }}}
}

func moreImportant(a, b *Item) bool {
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	if !a.Deadline.Equal(b.Deadline) {
		return !a.Deadline.IsZero() && (b.Deadline.IsZero() || a.Deadline.Before(b.Deadline))
	}
	return a.order < b.order
}

// Get returns the item of a pod, or nil.
func (q *Queue) Get(uid types.UID) *Item { return q.items[uid] }

// Add queues a pod that is not there yet. It goes to active, or to gated if it has gates. deadline may be zero.
func (q *Queue) Add(r placement.Request, deadline, now time.Time) *Item {
	q.order++
	item := &Item{Request: r, Added: now, Deadline: deadline, order: q.order, dueIndex: -1, priority: r.Class.Priority}
	q.items[r.Pod.UID] = item
	if !deadline.IsZero() {
		heap.Push(q.due, item)
	}
	if len(r.Pod.Spec.SchedulingGates) > 0 {
		q.put(item, Gated)
	} else {
		q.put(item, Active)
	}
	return item
}

// Update gives a queued pod a new version. If what it asks for changed, or its gates went, it is tried again, after its back-off.
func (q *Queue) Update(item *Item, r placement.Request, now time.Time) {
	changed := r.Class != item.Class || r.Pinned != item.Pinned
	place := item.place
	if place == InFlight {
		item.Request = r
		return
	}
	gates := len(r.Pod.Spec.SchedulingGates) > 0
	if !changed && gates == (place == Gated) {
		item.Request = r
		return
	}
	q.take(item)
	item.Request, item.priority = r, r.Class.Priority
	switch {
	case gates:
		q.put(item, Gated)
	case place == Unschedulable:
		q.ready(item, now)
	case place == Gated:
		q.put(item, Active)
	default:
		q.put(item, place)
	}
}

// Remove forgets a pod: it was deleted, or bound. Removing an absent pod does nothing.
func (q *Queue) Remove(uid types.UID) {
	item := q.items[uid]
	if item == nil {
		return
	}
	q.take(item)
	item.place = InFlight
	if item.dueIndex >= 0 {
		heap.Remove(q.due, item.dueIndex)
	}
	delete(q.items, uid)
}

// Pop takes the most important pod whose time has come, or returns nil.
func (q *Queue) Pop(now time.Time) *Item {
	q.expire(now)
	if q.active.Len() == 0 {
		return nil
	}
	item := q.active.items[0]
	q.take(item)
	item.place = InFlight
	item.Attempts++
	return item
}

// Park puts a popped pod that no node would take aside until Wake picks it.
func (q *Queue) Park(item *Item, rejected placement.PluginSet, now time.Time) {
	if q.items[item.Pod.UID] != item {
		return
	}
	item.Rejected = rejected
	q.failed(item, now)
	q.put(item, Unschedulable)
}

// Retry puts a popped pod back that failed for reasons which may pass by themselves, to be tried after its back-off.
func (q *Queue) Retry(item *Item, now time.Time) {
	if q.items[item.Pod.UID] != item {
		return
	}
	q.failed(item, now)
	q.put(item, Backoff)
}

func (q *Queue) failed(item *Item, now time.Time) {
	item.tried = now
	wait := q.opts.MaxBackoff
	if shift := item.Attempts - 1; shift < 20 {
		wait = min(wait, q.opts.InitialBackoff<<max(0, shift))
	}
	item.ready = now.Add(wait)
}

// Wake moves the unschedulable pods for which wanted is true to active, or to backoff if they have to wait. wanted is asked once per class and set of
// rejectors. It returns how many pods moved.
func (q *Queue) Wake(now time.Time, wanted func(c *placement.Class, rejected placement.PluginSet) bool) int {
	moved := 0
	for class, items := range q.parked {
		answers := map[placement.PluginSet]bool{}
		for item := range items {
			answer, known := answers[item.Rejected]
			if !known {
				answer = wanted(class, item.Rejected)
				answers[item.Rejected] = answer
			}
			if answer {
				q.take(item)
				q.ready(item, now)
				moved++
			}
		}
	}
	return moved
}

// Hurry moves one unschedulable or backing-off pod to active at once: what it waited for has happened.
func (q *Queue) Hurry(uid types.UID) {
	if item := q.items[uid]; item != nil && (item.place == Unschedulable || item.place == Backoff) {
		q.take(item)
		q.put(item, Active)
	}
}

func (q *Queue) ready(item *Item, now time.Time) {
	if item.ready.After(now) {
		q.put(item, Backoff)
	} else {
		q.put(item, Active)
	}
}

// expire moves what has waited long enough.
func (q *Queue) expire(now time.Time) {
	for q.backoff.Len() > 0 && !q.backoff.items[0].ready.After(now) {
		item := q.backoff.items[0]
		q.take(item)
		q.put(item, Active)
	}
	if now.Sub(q.swept) < q.opts.MaxUnschedulable/10 {
		return
	}
	q.swept = now
	for _, items := range q.parked {
		for item := range items {
			if now.Sub(item.tried) >= q.opts.MaxUnschedulable {
				q.take(item)
				q.put(item, Active)
			}
		}
	}
}

// Overdue returns the next pod whose deadline has passed, once for each, or nil.
func (q *Queue) Overdue(now time.Time) *Item {
	if q.due.Len() == 0 || (*q.due)[0].Deadline.After(now) {
		return nil
	}
	item := heap.Pop(q.due).(*Item)
	item.Late = true
	return item
}

// Next returns when something will happen by itself: a back-off or a deadline ends. ok is false if nothing will.
func (q *Queue) Next(now time.Time) (at time.Time, ok bool) {
	earlier := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if q.backoff.Len() > 0 {
		earlier(q.backoff.items[0].ready)
	}
	if q.due.Len() > 0 {
		earlier((*q.due)[0].Deadline)
	}
	if len(q.parked) > 0 {
		earlier(now.Add(q.opts.MaxUnschedulable / 10))
	}
	return at, ok
}

// Counts returns how many pods wait in each place.
func (q *Queue) Counts() (active, backoff, unschedulable, gated int) {
	for _, items := range q.parked {
		unschedulable += len(items)
	}
	return q.active.Len(), q.backoff.Len(), unschedulable, q.gated
}

// Each calls f for every unschedulable pod.
func (q *Queue) Each(f func(*Item)) {
	for _, items := range q.parked {
		for item := range items {
			f(item)
		}
	}
}

func (q *Queue) put(item *Item, place Place) {
	item.place = place
	switch place {
	case Active:
		heap.Push(q.active, item)
	case Backoff:
		heap.Push(q.backoff, item)
	case Gated:
		q.gated++
	case Unschedulable:
		items := q.parked[item.Class]
		if items == nil {
			items = map[*Item]struct{}{}
			q.parked[item.Class] = items
		}
		items[item] = struct{}{}
	}
}

// take takes item out of its place.
func (q *Queue) take(item *Item) {
	switch item.place {
	case Active:
		heap.Remove(q.active, item.index)
	case Backoff:
		heap.Remove(q.backoff, item.index)
	case Gated:
		q.gated--
	case Unschedulable:
		items := q.parked[item.Class]
		delete(items, item)
		if len(items) == 0 {
			delete(q.parked, item.Class)
		}
	}
}

// Pending lists the pods in the queue in no order, for those who look from outside.
func (q *Queue) Pending() []*v1.Pod {
	pods := make([]*v1.Pod, 0, len(q.items))
	for _, item := range q.items {
		pods = append(pods, item.Pod)
	}
	return pods
}
