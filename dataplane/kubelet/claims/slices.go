// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"fmt"
	"sync"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	sliceGrace = 30 * time.Second // how long a driver may be gone, as when it is updated, before what it published goes too
	sliceRetry = 10 * time.Second
)

// publications takes away what drivers published of this node (ResourceSlices) when they have been gone for sliceGrace: else the scheduler would give
// pods devices that nobody prepares. Build it with newPublications. Safe for concurrent use.
type publications struct {
	client   kubernetes.Interface
	nodeName string
	present  func(driver string) bool
	kick     chan struct{}

	mu  sync.Mutex
	due map[string]time.Time // when to look at a driver that left; at all of them under ""
}

func newPublications(client kubernetes.Interface, nodeName string, present func(string) bool) *publications {
	return &publications{client: client, nodeName: nodeName, present: present, kick: make(chan struct{}, 1), due: map[string]time.Time{}}
}

// gone notes that a driver has left.
func (p *publications) gone(driver string) { p.lookAt(driver, sliceGrace) }

func (p *publications) lookAt(driver string, in time.Duration) {
	p.mu.Lock()
	p.due[driver] = time.Now().Add(in)
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// run removes what is due until ctx ends; sliceGrace after its start also what drivers published that have not come back since an earlier agent.
func (p *publications) run(ctx context.Context) {
	p.lookAt("", sliceGrace)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		case <-timer.C:
		}
		now, next := time.Now(), time.Time{}
		for driver, at := range p.pending() {
			if !at.After(now) {
				if at = p.settle(ctx, driver, at); at.IsZero() {
					continue
				}
			}
			if next.IsZero() || at.Before(next) {
				next = at
			}
		}
		if !next.IsZero() {
			timer.Reset(max(time.Until(next), 0))
		}
	}
}

func (p *publications) pending() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]time.Time, len(p.due))
	for driver, at := range p.due {
		out[driver] = at
	}
	return out
}

// settle removes what is left of a driver that was due at that time, and returns when to look again; never when it is zero.
func (p *publications) settle(ctx context.Context, driver string, due time.Time) (again time.Time) {
	err := p.remove(ctx, driver)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.due[driver].Equal(due): // it left once more meanwhile
	case err == nil:
		delete(p.due, driver)
	default:
		klog.FromContext(ctx).V(2).Info("ResourceSlices of drivers that are gone are still there; trying again", "err", err)
		p.due[driver] = time.Now().Add(sliceRetry)
	}
	return p.due[driver]
}

// remove takes away what a driver published that is not here; with no name, what all such drivers did.
func (p *publications) remove(ctx context.Context, driver string) error {
	drivers := sets.New(driver)
	if driver == "" {
		var err error
		if drivers, err = p.drivers(ctx); err != nil {
			return err
		}
	}
	for name := range drivers {
		if p.present(name) {
			continue
		}
		selector := fields.Set{resourcev1.ResourceSliceSelectorNodeName: p.nodeName, resourcev1.ResourceSliceSelectorDriver: name}.String()
		if err := p.client.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: selector}); err != nil {
			return fmt.Errorf("remove the ResourceSlices of driver %s and node %s: %w", name, p.nodeName, err)
		}
		klog.FromContext(ctx).Info("A resource driver is gone: its ResourceSlices of this node were removed", "driver", name)
	}
	return nil
}

// drivers are those that have published something of this node.
func (p *publications) drivers(ctx context.Context) (sets.Set[string], error) {
	list, err := p.client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: fields.Set{resourcev1.ResourceSliceSelectorNodeName: p.nodeName}.String()})
	if err != nil {
		return nil, fmt.Errorf("ResourceSlices of node %s: %w", p.nodeName, err)
	}
	out := sets.New[string]()
	for i := range list.Items {
		out.Insert(list.Items[i].Spec.Driver)
	}
	return out, nil
}
