// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// tasks are goroutines that somebody waits for; the first error ends the run.
type tasks struct{ group sync.WaitGroup }

func (t *tasks) run(f func() error, fail context.CancelCauseFunc) {
	t.group.Go(func() {
		if err := f(); err != nil {
			fail(err)
		}
	})
}

func (t *tasks) wait() { t.group.Wait() }

// tasksGroup are the components of a run.
type tasksGroup struct{ tasks }

func (t *tasksGroup) start(ctx context.Context, components []Component, env Env, fail context.CancelCauseFunc) {
	log := klog.FromContext(ctx)
	for _, c := range components {
		started := time.Now()
		t.run(func() error {
			ctx := klog.NewContext(ctx, log.WithValues("component", c.Name))
			err := c.Run(ctx, env)
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				return fmt.Errorf("component %s ended by itself after %s", c.Name, since(started))
			}
			return fmt.Errorf("component %s: %w", c.Name, err)
		}, fail)
		log.Info("Component started", "component", c.Name)
	}
}
