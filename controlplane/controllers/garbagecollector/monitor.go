// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const rediscover = 30 * time.Second

// ignored types own nothing, are owned by nothing, and there are very many of them.
var ignored = map[schema.GroupResource]bool{
	{Resource: "events"}:                         true,
	{Group: "events.k8s.io", Resource: "events"}: true,
}

// monitors run one metadata reflector per deletable type, writing straight into the graph: there is no cache of objects besides it.
type monitors struct {
	client    metadata.Interface
	discovery discovery.DiscoveryInterface
	graph     *graph
	reset     func() // forgets the cached mapping of kinds to types
	poke      chan struct{}

	mu      sync.Mutex
	running map[schema.GroupVersionResource]*monitor
	wg      sync.WaitGroup
}

type monitor struct {
	gvr    schema.GroupVersionResource
	owner  *monitors
	cancel context.CancelFunc
	mu     sync.Mutex
	synced bool
}

// run follows discovery until ctx ends and all reflectors have ended.
func (m *monitors) run(ctx context.Context) {
	defer m.wg.Wait()
	for {
		m.sync(ctx)
		select {
		case <-ctx.Done():
			return
		case <-m.poke: // a definition changed; give the API server a moment to serve it
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		case <-time.After(rediscover):
		}
	}
}

// sync starts reflectors of new types and stops those of removed ones.
func (m *monitors) sync(ctx context.Context) {
	types, partial, err := deletable(m.discovery)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Discovery failed, the known types stay watched")
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	for gvr := range types {
		if m.running[gvr] == nil {
			m.start(ctx, gvr)
			changed = true
		}
	}
	for gvr, mon := range m.running {
		// A group that did not answer just now has not gone away.
		if !types[gvr] && !partial[gvr.GroupVersion()] {
			mon.cancel()
			delete(m.running, gvr)
			changed = true
		}
	}
	if changed {
		m.reset()
	}
}

func (m *monitors) start(ctx context.Context, gvr schema.GroupVersionResource) {
	ctx, cancel := context.WithCancel(ctx)
	mon := &monitor{gvr: gvr, owner: m, cancel: cancel}
	m.running[gvr] = mon
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return m.client.Resource(gvr).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return m.client.Resource(gvr).Watch(ctx, o)
		},
	}, m.client)
	r := cache.NewReflectorWithOptions(lw, &metav1.PartialObjectMetadata{}, mon, cache.ReflectorOptions{
		Name: "garbagecollector", TypeDescription: gvr.String(),
	})
	m.wg.Go(func() { r.RunWithContext(ctx) })
}

// synced reports whether every watched type has been listed once: only then are all dependents of an object known.
func (m *monitors) allSynced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mon := range m.running {
		mon.mu.Lock()
		ok := mon.synced
		mon.mu.Unlock()
		if !ok {
			return false
		}
	}
	return len(m.running) > 0
}

func (m *monitors) watches(gvr schema.GroupVersionResource) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running[gvr] != nil
}

// deletable asks discovery for all types that can be listed, watched and deleted. partial are the group versions that did not answer.
func deletable(d discovery.DiscoveryInterface) (types map[schema.GroupVersionResource]bool, partial map[schema.GroupVersion]bool, err error) {
	lists, err := discovery.ServerPreferredResources(d)
	partial = map[schema.GroupVersion]bool{}
	if failed := (*discovery.ErrGroupDiscoveryFailed)(nil); errors.As(err, &failed) {
		for gv := range failed.Groups {
			partial[gv] = true
		}
	} else if err != nil && len(lists) == 0 {
		return nil, nil, err
	}
	types = map[schema.GroupVersionResource]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			able := slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch")
			if able && !ignored[schema.GroupResource{Group: gv.Group, Resource: r.Name}] {
				types[gv.WithResource(r.Name)] = true
			}
		}
	}
	return types, partial, nil
}

// The methods below are the store a reflector writes to.

func (m *monitor) Add(obj any) error { return m.Update(obj) }
func (m *monitor) Resync() error     { return nil }
func (m *monitor) Delete(obj any) error {
	return m.with(obj, func(o metav1.Object) { m.owner.graph.gone(o.GetUID()) })
}

func (m *monitor) Update(obj any) error {
	return m.with(obj, func(o metav1.Object) { m.owner.graph.observe(m.gvr, o) })
}

func (m *monitor) Replace(list []any, _ string) error {
	objs := make([]metav1.Object, 0, len(list))
	for _, obj := range list {
		if o, ok := obj.(metav1.Object); ok {
			objs = append(objs, o)
		}
	}
	m.owner.graph.replace(m.gvr, objs)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced = true
	return nil
}

func (m *monitor) with(obj any, f func(metav1.Object)) error {
	if o, ok := obj.(metav1.Object); ok {
		f(o)
	}
	if m.gvr.Resource == "customresourcedefinitions" || m.gvr.Resource == "apiservices" {
		select {
		case m.owner.poke <- struct{}{}:
		default:
		}
	}
	return nil
}
