// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// LeaderElection describes the Lease of which one process at a time holds the right to work.
type LeaderElection struct {
	Namespace, Name string // empty: kube-system, kube-controller-manager
	Identity        string // unique per process
	// LeaseDuration is how long a dead leader blocks the others; RenewDeadline how long a live one tries before it steps down; RetryPeriod how often
	// each tries. Zero values mean 15 s, 10 s and 2 s.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

func (e LeaderElection) withDefaults() LeaderElection {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&e.LeaseDuration, 15*time.Second)
	set(&e.RenewDeadline, 10*time.Second)
	set(&e.RetryPeriod, 2*time.Second)
	if e.Namespace == "" {
		e.Namespace = metav1.NamespaceSystem
	}
	if e.Name == "" {
		e.Name = manager
	}
	return e
}

// lead competes for the lease and calls term while it holds it, until ctx ends. The lease is given back only after term has returned, so that no two
// processes ever work at once.
func lead(ctx context.Context, e LeaderElection, config *rest.Config, term func(context.Context)) error {
	e = e.withDefaults()
	if e.Identity == "" {
		return fmt.Errorf("leader election needs an identity that is unique per process")
	}
	config = rest.CopyConfig(config)
	config.UserAgent = userAgent("leader-election")
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := compete(ctx, e, client, term); err != nil {
			return err
		}
	}
	return nil
}

// compete waits for the lease and works until it is lost or ctx ends.
func compete(ctx context.Context, e LeaderElection, client kubernetes.Interface, term func(context.Context)) error {
	electing, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	started, finished := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
		},
		LeaseDuration: e.LeaseDuration, RenewDeadline: e.RenewDeadline, RetryPeriod: e.RetryPeriod,
		ReleaseOnCancel: true, Name: e.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				close(started)
				defer close(finished)
				working, stop := context.WithCancel(leading)
				defer stop()
				defer context.AfterFunc(ctx, stop)()
				term(working)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-electing.Done():
			return
		case <-ctx.Done():
		}
		select {
		case <-started:
			<-finished
		default:
		}
		resign()
	}()
	elector.Run(electing)
	resign()
	<-watching
	select {
	case <-started:
		<-finished
	default:
	}
	return nil
}
