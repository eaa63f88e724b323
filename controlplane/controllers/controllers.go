// SPDX-License-Identifier: Apache-2.0

// Package controllers runs Kubernetes' control loops in one process: the names, annotations, conditions and events are Kubernetes', the code is one package
// per controller, each on client-go and nothing else, so that they also run against any other Kubernetes API server.
//
//	API server -> shared informers -> handlers -> work queue per controller -> sync(key) -> API server
//
// Run elects a leader when asked to, builds the clients and informers of one term, starts the selected controllers and waits for them. Nothing survives a
// term: a new leader begins with fresh lists.
package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/record"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // registers the work queues' metrics
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// Config says which controllers run, against which API server, and how.
type Config struct {
	// RESTConfig reaches the API server. Without QPS the client does not limit itself: the server's priority and fairness does.
	RESTConfig *rest.Config
	// Account gives each controller the configuration of its service account in kube-system (see Accounts), so that it may do what its role says and audit logs
	// tell it from the others. RESTConfig then only reads, for the informers, and holds the Lease. Nil: all controllers are who RESTConfig is.
	Account func(account string) (*rest.Config, error)
	// Controllers selects by name: "*" all, "name" one, "-name" not that one. Empty means all.
	Controllers []string
	// Settings are the cluster-wide values.
	Settings controller.Settings

	// LeaderElection, when set, makes Run work only while it holds a Lease.
	LeaderElection *LeaderElection
	// Clock is the time the controllers live by; nil means the real one.
	Clock clock.WithTicker
}

// Run works until ctx ends, and returns when everything it started has ended. Losing the lease is not the end: Run stops the controllers and
// competes again.
func Run(ctx context.Context, cfg Config) error {
	ctx = klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), "controllers"))
	selected, err := Select(cfg.Controllers)
	if err != nil {
		return err
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	config := withDefaults(cfg.RESTConfig)
	term := func(ctx context.Context) {
		if err := runTerm(ctx, cfg, config, selected); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Controllers could not start")
		}
	}
	if cfg.LeaderElection != nil {
		return lead(ctx, *cfg.LeaderElection, config, term)
	}
	return runTerm(ctx, cfg, config, selected)
}

// runTerm builds clients and informers and runs the controllers until ctx ends.
func runTerm(ctx context.Context, cfg Config, config *rest.Config, selected []Registration) error {
	c, own, err := newContext(ctx, cfg, config)
	if err != nil {
		return err
	}
	defer own.broadcaster.Shutdown()
	served, err := waitForTypes(ctx, c.Discovery)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	running := map[string]controller.Controller{}
	for _, r := range selected {
		if missing := r.missing(served); len(missing) > 0 {
			klog.FromContext(ctx).Info("Controller does not run: the API server does not serve what it works on", "controller", r.Name, "missing", missing)
			continue
		}
		running[r.Name] = r.New(c)
	}
	if own.failed != nil {
		return own.failed
	}
	c.Informers.StartWithContext(ctx)
	c.MetadataInformers.Start(ctx.Done())
	for name, r := range running {
		wg.Go(func() {
			if err := r.Run(ctx); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Controller ended", "controller", name)
			}
		})
	}
	wg.Go(func() { refresh(ctx, c.Mapper) })
	klog.FromContext(ctx).Info("Controllers run", "count", len(running))
	wg.Wait()
	<-ctx.Done()
	c.Informers.Shutdown()
	c.MetadataInformers.Shutdown()
	return nil
}

// newContext builds what controllers share, and what gives each its own. The caller ends the broadcaster.
func newContext(ctx context.Context, cfg Config, config *rest.Config) (*controller.Context, *accounts, error) {
	shared, err := newClients(config)
	if err != nil {
		return nil, nil, err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("discovery client: %w", err)
	}
	own := &accounts{
		config: cfg.Account, broadcaster: record.NewBroadcaster(record.WithContext(ctx)), sinks: newSinks(shared.typed), known: map[string]known{},
	}
	own.broadcaster.StartRecordingToSink(own.sinks)
	return &controller.Context{
		Client: shared.typed, Dynamic: shared.dynamic, Metadata: shared.metadata, Discovery: disco,
		Mapper:            restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco)),
		RESTConfig:        config,
		Reader:            shared.typed,
		Informers:         informers.NewSharedInformerFactoryWithOptions(shared.typed, 0, informers.WithTransform(trim)),
		MetadataInformers: metadatainformer.NewSharedInformerFactoryWithOptions(shared.metadata, 0, metadatainformer.WithTransform(trim)),
		Events:            own.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: manager}),
		Clock:             cfg.Clock,
		Settings:          cfg.Settings,
		Identify:          own.identify,
	}, own, nil
}

// trim drops managedFields from what informers keep: no controller reads them, and they are often half of an object. An update without them leaves the
// stored ones alone.
func trim(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

// waitForTypes returns what the API server serves, waiting for it to answer.
func waitForTypes(ctx context.Context, d discovery.DiscoveryInterface) (map[schema.GroupVersionResource]bool, error) {
	for {
		_, lists, err := d.ServerGroupsAndResources()
		if len(lists) > 0 {
			served := map[schema.GroupVersionResource]bool{}
			for _, list := range lists {
				gv, err := schema.ParseGroupVersion(list.GroupVersion)
				if err != nil {
					continue
				}
				for _, r := range list.APIResources {
					served[gv.WithResource(r.Name)] = true
				}
			}
			return served, nil
		}
		klog.FromContext(ctx).V(2).Info("Waiting for the API server", "reason", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// refresh forgets the kinds of custom resources from time to time, so that changed definitions become known.
func refresh(ctx context.Context, m meta.ResettableRESTMapper) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(30 * time.Second):
			m.Reset()
		}
	}
}

// Select returns the registrations that names choose, as Config.Controllers describes it. An unknown name is an error.
func Select(names []string) ([]Registration, error) {
	all := len(names) == 0
	only, without := map[string]bool{}, map[string]bool{}
	for _, name := range names {
		bare := strings.TrimPrefix(name, "-")
		switch {
		case name == "*":
			all = true
			continue
		case !slices.ContainsFunc(Registry, func(r Registration) bool { return r.Name == bare }):
			return nil, fmt.Errorf("there is no controller %q; there are: %s", bare, strings.Join(Names(), ", "))
		case bare != name:
			without[bare] = true
		default:
			only[name] = true
		}
	}
	return controller.Filter(Registry, func(r Registration) bool { return !without[r.Name] && (all || only[r.Name]) }), nil
}
