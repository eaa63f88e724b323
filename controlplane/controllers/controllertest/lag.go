// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"sync"

	"k8s.io/apimachinery/pkg/watch"
)

// Lag stands between the API and the watches of one process. While it holds, the process's caches stay as they are, however much is written, until the test lets
// one event or all of them pass. Writes and reads through a client are not held: this is how a busy API server looks to a controller.
// Events of one watch keep their order; those of different watches (pods and Jobs, say) overtake each other as the test likes.
type Lag struct {
	mu      sync.Mutex
	holds   bool
	watches []*lagging
}

// lagging is one watch. It holds as many events as the API has published and its reader has not taken yet: a slow reader loses none and stops nobody.
type lagging struct {
	lag     *Lag
	pending []watch.Event // guarded by lag.mu
	news    chan struct{} // pending may have become passable
	out     chan watch.Event
	done    chan struct{}
	stop    sync.Once
}

// watch returns a watch of what is published to it, its events held as l says.
func (l *Lag) watch() *lagging {
	w := &lagging{lag: l, news: make(chan struct{}, 1), out: make(chan watch.Event), done: make(chan struct{})}
	l.mu.Lock()
	l.watches = append(l.watches, w)
	l.mu.Unlock()
	go w.pump()
	return w
}

func (w *lagging) ResultChan() <-chan watch.Event { return w.out }

func (w *lagging) Stop() { w.stop.Do(func() { close(w.done) }) }

// stopped reports whether nobody reads any more.
func (w *lagging) stopped() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// publish adds an event behind those that wait. It never blocks.
func (w *lagging) publish(e watch.Event) {
	w.lag.mu.Lock()
	w.pending = append(w.pending, e)
	w.lag.mu.Unlock()
	w.wake()
}

func (w *lagging) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// pump sends what is published while nothing is held.
func (w *lagging) pump() {
	for {
		select {
		case <-w.done:
			return
		case <-w.news:
		}
		for e, ok := w.next(); ok; e, ok = w.next() {
			w.send(e)
		}
	}
}

// next takes the oldest event, unless events are held.
func (w *lagging) next() (watch.Event, bool) {
	w.lag.mu.Lock()
	defer w.lag.mu.Unlock()
	if w.lag.holds || len(w.pending) == 0 {
		return watch.Event{}, false
	}
	return w.take(), true
}

// take removes the oldest event, which there is.
func (w *lagging) take() watch.Event {
	e := w.pending[0]
	w.pending = w.pending[1:]
	return e
}

func (w *lagging) send(e watch.Event) {
	select {
	case w.out <- e:
	case <-w.done:
	}
}

// Hold keeps back every event from now on, or, with false, none, also not those held already.
func (l *Lag) Hold(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = on
	for _, w := range l.watches {
		w.wake()
	}
}

// Pending counts the events that are held.
func (l *Lag) Pending() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.watches {
		n += len(w.pending)
	}
	return n
}

// Pass lets the oldest held event of one watch pass: choose gets the number of watches that hold any. It reports whether there was one.
func (l *Lag) Pass(choose func(n int) int) bool {
	l.mu.Lock()
	var with []*lagging
	for _, w := range l.watches {
		if l.holds && len(w.pending) > 0 {
			with = append(with, w)
		}
	}
	if len(with) == 0 {
		l.mu.Unlock()
		return false
	}
	w := with[choose(len(with))]
	e := w.take()
	l.mu.Unlock()
	w.send(e)
	return true
}
