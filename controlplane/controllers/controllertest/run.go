// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/go-logr/logr"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// Process is a running set of controllers that can crash between any two writes. It belongs in a synctest bubble.
type Process struct {
	Events  *Events
	Context *controller.Context
	Lag     Lag // of its caches; none until Hold
	// Refuse, when set, may fail a write with an error. It is called by one goroutine at a time.
	Refuse func(clienttesting.Action) error

	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	left   int // writes until the crash, negative: none
	dead   bool
}

// Start starts controllers with fresh caches and waits until they have nothing to do.
func Start(t testing.TB, a *API, news ...func(*controller.Context) controller.Controller) *Process {
	p := &Process{left: -1}
	p.start(t, a, news...)
	return p
}

func (p *Process) start(t testing.TB, a *API, news ...func(*controller.Context) controller.Controller) {
	c, events := a.Context(a.client(p.before, &p.Lag))
	p.Events, p.Context = events, c
	var list []controller.Controller
	for _, f := range news {
		list = append(list, f(c))
	}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logr.Discard()))
	p.cancel = cancel
	c.Informers.StartWithContext(ctx)
	c.MetadataInformers.Start(ctx.Done())
	synctest.Wait() // the fake API loses what happens between an informer's list and its watch
	for _, one := range list {
		p.wg.Go(func() {
			if err := one.Run(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("a controller ended: %v", err)
			}
		})
	}
	synctest.Wait()
}

// CrashAfter makes the process crash at the write after n more.
func (p *Process) CrashAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = n
}

// Crashed reports whether it did.
func (p *Process) Crashed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// Stop ends the process: no further write passes.
func (p *Process) Stop() {
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
	p.Context.Informers.Shutdown()
	p.Context.MetadataInformers.Shutdown()
	synctest.Wait()
}

func (p *Process) before(action clienttesting.Action) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		p.dead = true
	}
	if p.left > 0 {
		p.left--
	}
	if p.dead {
		return ErrCrashed
	}
	if p.Refuse != nil {
		return p.Refuse(action)
	}
	return nil
}
