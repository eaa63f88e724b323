// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

// Config is what Run needs. Only one of RESTConfig and Client must be set.
type Config struct {
	// RESTConfig reaches the API server. Its QPS is used as it is; negative means no limit, which is right for a server in the same process.
	RESTConfig *rest.Config
	// Client is used instead of RESTConfig, by tests.
	Client kubernetes.Interface
	// Informers are used instead of an own factory, and started if they are not running. They may be shared with controllers.
	Informers informers.SharedInformerFactory

	// Pods, when set, is an informer of pods that runs in this process anyway and drops managed fields. It is read beside the other informers, its life is the
	// caller's. Nil means one of the factory's.
	Pods cache.SharedIndexInformer

	// ConfigFile is a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) as YAML or JSON; "" means the defaults.
	ConfigFile string
	// Configuration is used instead of ConfigFile.
	Configuration *configv1.KubeSchedulerConfiguration

	// LeaderElection makes Run wait for the Lease that the configuration names before it schedules. The configuration file's own
	// leaderElection.leaderElect turns it on, too.
	LeaderElection bool
	// Identity is this process's name in the Lease; "" means host name and a random part.
	Identity string

	// Binders is how many bindings may be on their way at once; 0 means 64.
	Binders int
	// Clock is the time; nil means the real one.
	Clock clock.WithTicker
}

// Scheduler is one running scheduler. Run is the way to have one.
type Scheduler struct {
	client    kubernetes.Interface
	clock     clock.WithTicker
	profiles  map[string]*placement.Profile
	deadlines bool // StartDeadline is on
	settings  *Settings

	mu    sync.Mutex // guards all below
	state *cluster.State
	eval  *placement.Evaluator
	queue *queue.Queue
	owner *owners

	kick    chan struct{} // the queue may have something for the loop
	binding chan struct{} // one token per binding on its way
	binds   chan func()   // to goroutines that wait for one
	tasks   sync.WaitGroup
	status  *statusWriter
	events  *eventWriter
	log     klog.Logger
}

// Run schedules until ctx ends, and returns when all its goroutines have ended. It fails only if it cannot begin.
func Run(ctx context.Context, cfg Config) error {
	settings, err := LoadSettings(cfg.ConfigFile, cfg.Configuration)
	if err != nil {
		return err
	}
	if cfg.Client == nil {
		if cfg.RESTConfig == nil {
			return errors.New("scheduler: neither RESTConfig nor Client is set")
		}
		rc := rest.CopyConfig(cfg.RESTConfig)
		settings.applyConnection(rc)
		rc.UserAgent = "kube-scheduler/fairlead" // what stands before the slash owns the fields that are written
		if cfg.Client, err = kubernetes.NewForConfig(rc); err != nil {
			return fmt.Errorf("scheduler: client: %w", err)
		}
	}
	lead := func(ctx context.Context) error {
		s := newScheduler(cfg, settings)
		return s.run(ctx, cfg.Informers, cfg.Pods)
	}
	if cfg.LeaderElection || settings.LeaderElection.LeaderElect != nil && *settings.LeaderElection.LeaderElect {
		return runElected(ctx, cfg, settings, lead)
	}
	return lead(ctx)
}

func newScheduler(cfg Config, settings *Settings) *Scheduler {
	s := &Scheduler{client: cfg.Client, clock: cfg.Clock, profiles: settings.Profiles, deadlines: settings.Deadlines, settings: settings,
		state: cluster.New(), queue: queue.New(settings.Queue), kick: make(chan struct{}, 1), binds: make(chan func())}
	if s.clock == nil {
		s.clock = clock.RealClock{}
	}
	binders := cfg.Binders
	if binders == 0 {
		binders = 64
	}
	s.binding = make(chan struct{}, binders)
	s.status = newStatusWriter(s)
	s.events = newEventWriter(s.client, s.clock, func() bool { return len(s.binding) > cap(s.binding)/2 })
	s.owner = newOwners()
	s.eval = placement.New(s.state)
	s.eval.Defaults = s.owner.selector
	return s
}

// run is the life of one leader.
func (s *Scheduler) run(ctx context.Context, factory informers.SharedInformerFactory, pods cache.SharedIndexInformer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.log = klog.FromContext(ctx).WithName("scheduler")
	registerMetrics()
	defer s.tasks.Wait()
	defer cancel()
	s.goTask(func() { s.status.run(ctx) })
	s.goTask(func() { s.events.run(ctx) })

	own := factory == nil
	if own {
		factory = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(trim))
	}
	if pods == nil {
		pods = factory.Core().V1().Pods().Informer()
	}
	registrations, err := s.watch(factory, pods)
	if err != nil {
		return err
	}
	defer func() {
		for _, r := range registrations { // a shared informer lives on
			if err := r.informer.RemoveEventHandler(r); err != nil {
				s.log.Error(err, "Cannot remove an event handler")
			}
		}
	}()
	factory.StartWithContext(ctx)
	if own {
		defer factory.Shutdown()
		defer cancel()
	}
	for _, r := range registrations {
		if err := waitFor(ctx, r.HasSynced); err != nil {
			return nil // ctx ended before the caches were full
		}
	}
	s.log.V(1).Info("Scheduling", "profiles", len(s.profiles))
	s.loop(ctx)
	return nil
}

func (s *Scheduler) goTask(f func()) {
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		f()
	}()
}

// waitFor polls ok, which informers offer as a function only.
func waitFor(ctx context.Context, ok func() bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

// trim drops what the scheduler never reads from an object before it is cached.
func trim(obj any) (any, error) {
	if m, ok := obj.(interface {
		runtime.Object
		SetManagedFields([]metav1.ManagedFieldsEntry)
	}); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}
