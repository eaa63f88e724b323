// SPDX-License-Identifier: Apache-2.0

package shutdown

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const pollPeriod = 20 * time.Millisecond // for pods that end

// Watcher waits for the machine's shutdown and ends pods then. Build it with New.
type Watcher struct {
	cfg     Config
	periods []Period
	pods    Pods

	active  atomic.Bool
	once    sync.Mutex // one shutdown at a time
	started atomic.Int64
	ended   atomic.Int64
}

// Pods is how the watcher sees and ends pods. All functions are safe for concurrent use.
type Pods struct {
	List func() []*v1.Pod // that have not ended
	// Kill starts the end of a pod, within grace.
	Kill func(pod *v1.Pod, grace time.Duration)
	// Ended tells whether everything of a pod is gone.
	Ended func(uid types.UID) bool
	// Changed is called when a shutdown begins, and when it was called off.
	Changed func()
}

// New checks the configuration.
func New(cfg Config, pods Pods) (*Watcher, error) {
	periods, err := cfg.Periods()
	if err != nil {
		return nil, err
	}
	if cfg.SystemBus == "" {
		cfg.SystemBus = defaultBus
	}
	if cfg.DropIns == "" {
		cfg.DropIns = defaultDropIns
	}
	return &Watcher{cfg: cfg, periods: periods, pods: pods}, nil
}

// Active tells whether the machine is going down: no pod may start then, and the node is not ready.
func (w *Watcher) Active() bool { return w.active.Load() }

// Times are when the last shutdown began and when all pods had ended, in Unix nanoseconds; 0: never.
func (w *Watcher) Times() (started, ended int64) { return w.started.Load(), w.ended.Load() }

// Shutdown ends all pods, group by group, and returns when that is done or the periods are over.
func (w *Watcher) Shutdown(ctx context.Context) {
	w.once.Lock()
	defer w.once.Unlock()
	if !w.active.Swap(true) {
		w.started.Store(time.Now().UnixNano())
		w.pods.Changed()
	}
	log := klog.FromContext(ctx)
	for _, group := range Plan(w.periods, w.pods.List()) {
		log.Info("Ending pods before the machine shuts down", "pods", len(group.Pods), "within", group.Grace)
		for _, pod := range group.Pods {
			grace := group.Grace
			if seconds := pod.Spec.TerminationGracePeriodSeconds; seconds != nil {
				grace = min(grace, time.Duration(*seconds)*time.Second)
			}
			w.pods.Kill(pod, grace)
		}
		if left := w.wait(ctx, group); left > 0 {
			log.Info("Pods did not end within their period", "left", left, "period", group.Grace)
		}
	}
	w.ended.Store(time.Now().UnixNano())
}

// wait returns how many pods of the group are left when its time is over.
func (w *Watcher) wait(ctx context.Context, group Group) (left int) {
	deadline := time.NewTimer(group.Grace)
	defer deadline.Stop()
	poll := time.NewTicker(pollPeriod)
	defer poll.Stop()
	for {
		left = 0
		for _, pod := range group.Pods {
			if !w.pods.Ended(pod.UID) {
				left++
			}
		}
		if left == 0 {
			return 0
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return left
		case <-ctx.Done():
			return left
		}
	}
}

// cancel says that the machine stays up after all.
func (w *Watcher) cancel() {
	if w.active.Swap(false) {
		w.pods.Changed()
	}
}
