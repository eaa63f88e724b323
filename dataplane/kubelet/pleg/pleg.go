// SPDX-License-Identifier: Apache-2.0

// Package pleg tells which pods changed in the runtime: by CRI's event stream, and by comparing lists now and then for what the
// stream may have missed. A runtime without the stream is listed every second.
package pleg

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

const (
	repairPeriod = 30 * time.Second // with events
	pollPeriod   = time.Second      // without
	reconnect    = 500 * time.Millisecond
)

// Watcher watches the runtime. Build it with New.
type Watcher struct {
	runtime internalapi.RuntimeService
	changed func(types.UID)
	listed  func(map[types.UID]*observed.Pod)

	// OnList is told how long a listing took and how long before its end the one before had ended. May be nil.
	OnList func(took, interval time.Duration)

	healthy atomic.Int64 // unix nanoseconds of the last listing that worked
	kick    chan struct{}
}

// New returns a watcher of runtime that calls changed with each pod that may have changed, and listed with all pods after each listing.
func New(runtime internalapi.RuntimeService, changed func(types.UID), listed func(map[types.UID]*observed.Pod)) *Watcher {
	return &Watcher{runtime: runtime, changed: changed, listed: listed, kick: make(chan struct{}, 1)}
}

// List has everything listed soon. It does not wait for that.
func (w *Watcher) List() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Healthy tells whether the runtime has answered lately.
func (w *Watcher) Healthy() bool {
	return time.Since(time.Unix(0, w.healthy.Load())) < 3*time.Minute
}

// LastSeen is when a listing last worked; zero before the first.
func (w *Watcher) LastSeen() time.Time {
	if at := w.healthy.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	events := make(chan *runtimeapi.ContainerEventResponse, 256)
	var streaming atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.stream(ctx, events, &streaming)
	}()
	defer func() { <-ended }()
	before := map[types.UID]string{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-events:
			if uid := event.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
				w.changed(types.UID(uid))
			} else {
				before = w.list(ctx, before)
			}
		case <-w.kick:
			before = w.list(ctx, before)
		case <-timer.C:
			before = w.list(ctx, before)
			if streaming.Load() {
				timer.Reset(repairPeriod)
			} else {
				timer.Reset(pollPeriod)
			}
		}
	}
}

// stream keeps the event stream open.
func (w *Watcher) stream(ctx context.Context, events chan *runtimeapi.ContainerEventResponse, streaming *atomic.Bool) {
	log := klog.FromContext(ctx)
	for ctx.Err() == nil {
		err := w.runtime.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) {
			streaming.Store(true)
			w.List() // something may have been missed while there was none
		})
		streaming.Store(false)
		if status.Code(err) == codes.Unimplemented {
			log.Info("The runtime has no event stream: it is listed every second")
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
}

// list reads all pods, reports those that differ from before, and returns what to compare with next time.
func (w *Watcher) list(ctx context.Context, before map[types.UID]string) map[types.UID]string {
	started, last := time.Now(), w.LastSeen()
	pods, err := observed.List(ctx, w.runtime)
	if err != nil {
		return before
	}
	if w.OnList != nil {
		interval := time.Duration(0)
		if !last.IsZero() {
			interval = time.Since(last)
		}
		w.OnList(time.Since(started), interval)
	}
	w.healthy.Store(time.Now().UnixNano())
	now := map[types.UID]string{}
	for uid, pod := range pods {
		now[uid] = digest(pod)
		if now[uid] != before[uid] {
			w.changed(uid)
		}
	}
	for uid := range before {
		if _, ok := now[uid]; !ok {
			w.changed(uid)
		}
	}
	w.listed(pods)
	return now
}

// digest sums up what of a pod can change.
func digest(pod *observed.Pod) string {
	var parts []string
	for _, s := range pod.Sandboxes {
		parts = append(parts, fmt.Sprint(s.ID, s.Ready))
	}
	for _, c := range pod.Containers {
		parts = append(parts, c.ID+c.State.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}
