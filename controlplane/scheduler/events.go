// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	eventQueue   = 1 << 16              // events beyond that are dropped and counted
	eventPause   = 5 * time.Millisecond // between two events that can wait, while bindings are the bottleneck
	seriesPause  = 30 * time.Second     // between two writes of the count of one repeated event
	seriesForget = 10 * time.Minute
	reporter     = "default-scheduler"
	maxEventNote = 1024
	eventsKept   = 10000
)

// eventWriter writes events.k8s.io/v1 events in the background. An event that repeats becomes a series with a count. Writing one costs the API server as
// much as a binding: in a burst, those that say that all is well come after the bindings. None is lost unless eventQueue of them wait.
type eventWriter struct {
	client   kubernetes.Interface
	clock    clock.WithTicker
	instance string
	busy     func() bool // bindings are the bottleneck
	warnings eventLane
	normals  eventLane

	mu     sync.Mutex
	series map[seriesKey]*series
}

type eventWish struct {
	pod                        *v1.Pod
	kind, reason, action, note string
	at                         time.Time
}

type seriesKey struct {
	uid          types.UID
	reason, note string
}

type series struct {
	name    string
	count   int32
	written time.Time
	seen    time.Time
}

func newEventWriter(client kubernetes.Interface, c clock.WithTicker, busy func() bool) *eventWriter {
	host, _ := os.Hostname()
	return &eventWriter{client: client, clock: c, instance: reporter + "-" + host, busy: busy, series: map[seriesKey]*series{},
		warnings: eventLane{more: make(chan struct{}, 1)}, normals: eventLane{more: make(chan struct{}, 1)}}
}

func (w *eventWriter) scheduled(pod *v1.Pod, node string) {
	w.send(eventWish{pod, v1.EventTypeNormal, "Scheduled", "Binding", fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node), w.clock.Now()})
}

func (w *eventWriter) normal(pod *v1.Pod, reason, action, note string) {
	w.send(eventWish{pod, v1.EventTypeNormal, reason, action, note, w.clock.Now()})
}

func (w *eventWriter) warn(pod *v1.Pod, reason, action, note string) {
	w.send(eventWish{pod, v1.EventTypeWarning, reason, action, note, w.clock.Now()})
}

func (w *eventWriter) send(e eventWish) {
	lane := &w.normals
	if e.kind == v1.EventTypeWarning {
		lane = &w.warnings
	}
	if !lane.push(e) {
		droppedEvents.Inc()
	}
}

func (w *eventWriter) run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { w.drain(ctx, &w.warnings, func() bool { return false }) })
	group.Go(func() { w.drain(ctx, &w.normals, w.busy) })
	group.Wait()
}

// drain writes the events of a lane until ctx ends, slowly while yield says so.
func (w *eventWriter) drain(ctx context.Context, lane *eventLane, yield func() bool) {
	pause := w.clock.NewTimer(eventPause)
	defer pause.Stop()
	for {
		e, ok := lane.pop()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-lane.more:
			}
			continue
		}
		if err := w.write(ctx, e); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("Cannot write an event", "pod", klog.KObj(e.pod), "reason", e.reason, "err", err)
		}
		if yield() {
			pause.Reset(eventPause)
			select {
			case <-ctx.Done():
			case <-pause.C():
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// eventLane is a bounded queue.
type eventLane struct {
	mu     sync.Mutex
	wishes []eventWish
	more   chan struct{}
}

// push returns false when the lane is full.
func (l *eventLane) push(e eventWish) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wishes) >= eventQueue {
		return false
	}
	l.wishes = append(l.wishes, e)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return true
}

func (l *eventLane) pop() (e eventWish, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wishes) == 0 {
		l.wishes = nil // the room of a burst
		return e, false
	}
	e, l.wishes[0] = l.wishes[0], eventWish{}
	l.wishes = l.wishes[1:]
	return e, true
}

func (w *eventWriter) write(ctx context.Context, e eventWish) error {
	if len(e.note) > maxEventNote {
		e.note = e.note[:maxEventNote-3] + "..."
	}
	events := w.client.EventsV1().Events(e.pod.Namespace)
	key := seriesKey{e.pod.UID, e.reason, e.note}
	w.mu.Lock()
	known := w.series[key]
	fresh := known == nil || e.at.Sub(known.seen) > seriesForget
	if fresh {
		known = &series{name: fmt.Sprintf("%s.%x", e.pod.Name, e.at.UnixNano()), written: e.at}
		if e.kind == v1.EventTypeWarning { // what happens once needs no memory
			w.remember(key, known, e.at)
		}
	}
	known.count++
	known.seen = e.at
	count, due := known.count, e.at.Sub(known.written) >= seriesPause || known.count == 2
	if due {
		known.written = e.at
	}
	w.mu.Unlock()
	if fresh {
		_, err := events.Create(ctx, &eventsv1.Event{
			ObjectMeta:          metav1.ObjectMeta{Namespace: e.pod.Namespace, Name: known.name},
			EventTime:           metav1.NewMicroTime(e.at),
			ReportingController: e.pod.Spec.SchedulerName,
			ReportingInstance:   w.instance,
			Action:              e.action,
			Reason:              e.reason,
			Type:                e.kind,
			Note:                e.note,
			Regarding:           v1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: e.pod.Namespace, Name: e.pod.Name, UID: e.pod.UID, ResourceVersion: e.pod.ResourceVersion},
		}, metav1.CreateOptions{})
		return err
	}
	if !due {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"series": eventsv1.EventSeries{Count: count, LastObservedTime: metav1.NewMicroTime(e.at)}})
	if err != nil {
		return err
	}
	_, err = events.Patch(ctx, known.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// remember keeps a series, and forgets old ones when there are many.
func (w *eventWriter) remember(key seriesKey, s *series, now time.Time) {
	if len(w.series) >= eventsKept {
		for k, old := range w.series {
			if now.Sub(old.seen) > seriesForget {
				delete(w.series, k)
			}
		}
		if len(w.series) >= eventsKept {
			clear(w.series)
		}
	}
	w.series[key] = s
}
