// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// runElected runs lead while this process holds the Lease, again and again until ctx ends: a lease that ran out because a disk was slow is no reason to
// exit. It returns early only if lead cannot begin.
func runElected(ctx context.Context, cfg Config, settings *Settings, lead func(context.Context) error) error {
	identity := cfg.Identity
	if identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("scheduler: identity for leader election: %w", err)
		}
		identity = host + "_" + string(uuid.NewUUID())
	}
	le := settings.LeaderElection
	for ctx.Err() == nil {
		lock, err := resourcelock.New(resourcelock.LeasesResourceLock, le.ResourceNamespace, le.ResourceName, cfg.Client.CoreV1(), cfg.Client.CoordinationV1(),
			resourcelock.ResourceLockConfig{Identity: identity})
		if err != nil {
			return fmt.Errorf("scheduler: lease: %w", err)
		}
		term, end := context.WithCancelCause(ctx)
		ended := make(chan struct{})
		var mu sync.Mutex
		running, over := false, false
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, Name: "scheduler", ReleaseOnCancel: true,
			LeaseDuration: orDefault(le.LeaseDuration.Duration, 15*time.Second),
			RenewDeadline: orDefault(le.RenewDeadline.Duration, 10*time.Second),
			RetryPeriod:   orDefault(le.RetryPeriod.Duration, 2*time.Second),
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					// The elector starts this in a goroutine of its own, possibly after the term is over.
					mu.Lock()
					running = !over
					mine := running
					mu.Unlock()
					if !mine {
						return
					}
					defer close(ended)
					if err := lead(ctx); err != nil {
						end(err) // gives the lease back
					}
				},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			end(nil)
			return fmt.Errorf("scheduler: leader election: %w", err)
		}
		elector.Run(term)
		mu.Lock()
		over = true
		wait := running
		mu.Unlock()
		if wait {
			<-ended
		}
		failure := context.Cause(term)
		end(nil)
		if failure != nil && ctx.Err() == nil {
			return failure
		}
	}
	return nil
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}
