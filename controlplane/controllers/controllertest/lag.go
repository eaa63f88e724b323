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

// lagging is one watch. pump reads what comes as fast as it comes, since the fake API's watch has little room.
type lagging struct {
	lag     *Lag
	inner   watch.Interface
	pending []watch.Event
	out     chan watch.Event
	done    chan struct{}
	stop    sync.Once
}

// watch returns inner with its events held as l says.
func (l *Lag) watch(inner watch.Interface) watch.Interface {
	w := &lagging{lag: l, inner: inner, out: make(chan watch.Event), done: make(chan struct{})}
	l.mu.Lock()
	l.watches = append(l.watches, w)
	l.mu.Unlock()
	go w.pump()
	return w
}

func (w *lagging) ResultChan() <-chan watch.Event { return w.out }

func (w *lagging) Stop() {
	w.stop.Do(func() { close(w.done) })
	w.inner.Stop()
}

func (w *lagging) pump() {
	for {
		select {
		case <-w.done:
			return
		case e, ok := <-w.inner.ResultChan():
			if !ok {
				return
			}
			w.lag.mu.Lock()
			hold := w.lag.holds
			if hold {
				w.pending = append(w.pending, e)
			}
			w.lag.mu.Unlock()
			if !hold {
				w.send(e)
			}
		}
	}
}

func (w *lagging) send(e watch.Event) {
	select {
	case w.out <- e:
	case <-w.done:
	}
}

// Hold keeps back every event from now on, or, with false, none: what is held already is then to be let pass first.
func (l *Lag) Hold(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holds = on
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

// Pass lets the oldest event of one watch pass: choose gets the number of watches that hold any. It reports whether there was one.
func (l *Lag) Pass(choose func(n int) int) bool {
	l.mu.Lock()
	var with []*lagging
	for _, w := range l.watches {
		if len(w.pending) > 0 {
			with = append(with, w)
		}
	}
	if len(with) == 0 {
		l.mu.Unlock()
		return false
	}
	w := with[choose(len(with))]
	e := w.pending[0]
	w.pending = w.pending[1:]
	l.mu.Unlock()
	w.send(e)
	return true
}
