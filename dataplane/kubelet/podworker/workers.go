// SPDX-License-Identifier: Apache-2.0

package podworker

import (
	"context"
	gosync "sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
	"github.com/fairlead/fairlead/dataplane/kubelet/downward"
	"github.com/fairlead/fairlead/dataplane/kubelet/images"
	"github.com/fairlead/fairlead/dataplane/kubelet/objects"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/probes"
	"github.com/fairlead/fairlead/dataplane/kubelet/status"
	"github.com/fairlead/fairlead/dataplane/kubelet/volumes"
)

// Services are what workers work with.
type Services struct {
	Runtime internalapi.RuntimeService
	Puller  *images.Puller
	Volumes *volumes.Host
	Objects *objects.Cache
	Probes  *probes.Manager
	Status  *status.Writer
	Node    criconfig.Node

	RuntimeName   string
	ClusterDomain string
	// Event records an event on a pod; container is empty when it is about the pod.
	Event func(pod *v1.Pod, container string, warning bool, reason, message string)
	// Services returns the services for a container's environment: of a namespace, and default/kubernetes.
	Services func(namespace string) (own []*v1.Service, master *v1.Service)
	// Facts returns the node's part of the downward API.
	Facts func() downward.Facts
	// DNS returns a pod's resolver settings; nil leaves the runtime's own.
	DNS func(pod *v1.Pod) (*runtimeapi.DNSConfig, error)
	// RuntimeHandler returns the CRI runtime handler of a runtime class.
	RuntimeHandler func(class string) (string, error)
	// Admit tells why this node will not run a pod: reason and message, or an empty reason.
	Admit func(pod *v1.Pod) (reason, message string)
	// Fits tells why a running pod cannot have the resources it now asks for (Deferred or Infeasible), or an empty reason.
	Fits func(pod *v1.Pod) (reason, message string)
	// Cgroups makes and removes a pod's own cgroup.
	Cgroups interface {
		Create(pod *v1.Pod) error
		Remove(pod *v1.Pod) error
	}
	// Prepare gets what a pod needs beside volumes before anything of it starts: devices and resource claims. It may be called again. A Refusal
	// means that the pod cannot run here. May be nil.
	Prepare func(ctx context.Context, pod *v1.Pod) error
	// Devices returns what device plugins and resource drivers give a container that is about to start. May be nil.
	Devices func(ctx context.Context, pod *v1.Pod, container *v1.Container) (Devices, error)
	// Health tells how those devices are, nothing of a container that has none. May be nil.
	Health func(pod *v1.Pod, container *v1.Container) []v1.ResourceStatus
	// UserNS returns a pod's user-namespace mapping, nil when it uses the host's. May be nil.
	UserNS func(pod *v1.Pod) (*runtimeapi.UserNamespace, error)
	// Release is told when nothing of a pod is left: what Prepare, Devices and UserNS gave it is free. An error makes it be called again. May be nil.
	Release func(ctx context.Context, uid types.UID) error
	// OnStage is told how long stages of a pod's start took, OnStep how long looking at a pod once did, by what was done (sync or terminating).
	OnStage func(stage string, took time.Duration)
	OnStep  func(kind string, took time.Duration)
}

// Devices are a container's share of device plugins and resource claims.
type Devices struct {
	Env, Annotations map[string]string
	Mounts           []*runtimeapi.Mount
	Devices          []*runtimeapi.Device
	CDI              []*runtimeapi.CDIDevice
}

// Refusal is why a pod cannot run on this node.
type Refusal struct{ Reason, Message string }

func (r *Refusal) Error() string { return r.Reason + ": " + r.Message }

// Workers are the pods of this node. Safe for concurrent use.
type Workers struct {
	services *Services
	ctx      context.Context

	mu      gosync.Mutex
	workers map[types.UID]*worker
	running gosync.WaitGroup
}

// New returns workers that end with ctx; containers live on.
func New(ctx context.Context, services *Services) *Workers {
	return &Workers{services: services, ctx: ctx, workers: map[types.UID]*worker{}}
}

// Update makes pod, as the API or a file has it, the state to have. The first update starts the pod's worker.
func (w *Workers) Update(pod *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return
	}
	one := w.workers[pod.UID]
	if one == nil {
		one = newWorker(w.services, pod)
		w.workers[pod.UID] = one
		w.running.Go(func() {
			one.loop(w.ctx)
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.workers[pod.UID] == one && one.gone() {
				delete(w.workers, pod.UID)
			}
		})
		return
	}
	one.update(pod)
}

// Remove says that the API has no such pod any more: everything of it is ended and removed, without waiting longer than grace.
func (w *Workers) Remove(uid types.UID, grace time.Duration) {
	w.mu.Lock()
	one := w.workers[uid]
	w.mu.Unlock()
	if one != nil {
		one.remove(grace)
	}
}

// Orphan ends a pod that the runtime has and no source knows; seen gives its name.
func (w *Workers) Orphan(seen *observed.Pod) {
	pod := &v1.Pod{}
	pod.UID, pod.Name, pod.Namespace = seen.UID, seen.Name, seen.Namespace
	w.mu.Lock()
	_, known := w.workers[seen.UID]
	w.mu.Unlock()
	if known {
		return
	}
	w.Update(pod)
	w.Remove(seen.UID, orphanGrace)
}

// Evict ends a pod as failed. It tells whether the pod was there.
func (w *Workers) Evict(uid types.UID, reason, message string, grace time.Duration, condition *v1.PodCondition) bool {
	w.mu.Lock()
	one := w.workers[uid]
	w.mu.Unlock()
	if one == nil {
		return false
	}
	one.fail(reason, message, grace, condition)
	return true
}

// Wake makes a pod's worker look again.
func (w *Workers) Wake(uid types.UID) {
	w.mu.Lock()
	one := w.workers[uid]
	w.mu.Unlock()
	if one != nil {
		one.poke()
	}
}

// Refresh makes a pod's worker look again, at the content of its volumes too.
func (w *Workers) Refresh(uid types.UID) {
	w.mu.Lock()
	one := w.workers[uid]
	w.mu.Unlock()
	if one == nil {
		return
	}
	one.mu.Lock()
	one.fresh = true
	one.mu.Unlock()
	one.poke()
}

// WakeAll makes all workers look again.
func (w *Workers) WakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.workers {
		one.poke()
	}
}

// Known tells whether a pod has a worker.
func (w *Workers) Known(uid types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.workers[uid] != nil
}

// View is a pod as its worker last saw it.
type View struct {
	Pod      *v1.Pod
	Status   v1.PodStatus
	Observed *observed.Pod
	Ended    bool
}

// Views returns all pods.
func (w *Workers) Views() []View {
	w.mu.Lock()
	workers := make([]*worker, 0, len(w.workers))
	for _, one := range w.workers {
		workers = append(workers, one)
	}
	w.mu.Unlock()
	out := make([]View, 0, len(workers))
	for _, one := range workers {
		out = append(out, one.view())
	}
	return out
}

// View returns one pod.
func (w *Workers) View(uid types.UID) (View, bool) {
	w.mu.Lock()
	one := w.workers[uid]
	w.mu.Unlock()
	if one == nil {
		return View{}, false
	}
	return one.view(), true
}

// Wait returns when all workers have ended, which they do after ctx.
func (w *Workers) Wait() { w.running.Wait() }
