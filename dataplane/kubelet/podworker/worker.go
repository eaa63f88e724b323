// SPDX-License-Identifier: Apache-2.0

package podworker

import (
	"context"
	"fmt"
	gosync "sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/status"
	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

const (
	orphanGrace  = 2 * time.Second
	fetchRetry   = time.Second
	resyncPeriod = time.Minute // volumes are brought up to date, and everything is looked at again
	defaultGrace = 30 * time.Second
)

type worker struct {
	*Services
	wake chan struct{}

	viewed atomic.Pointer[View]

	mu        gosync.Mutex
	pod       *v1.Pod // the same, but with the resources it has been given
	latest    *v1.Pod // as the API has it
	granted   map[string]v1.ResourceRequirements
	pending   *v1.PodCondition // a resize that does not fit
	fresh     bool             // the pod changed since volumes were last brought up to date
	ending    *sync.Ending
	finished  bool // the API (or the file) no longer has the pod
	dead      bool // the loop has ended for good
	extra     *v1.PodCondition
	seen      *observed.Pod
	last      v1.PodStatus
	lastEnded bool

	// State of the loop and of its actions, under mu.
	startTime    time.Time
	volumesReady bool
	volumesAt    time.Time
	tornDown     bool
	memory       map[string]*sync.Container
	waiting      map[string]v1.ContainerStateWaiting
	busy         map[sync.Key]*action
	acted        int // actions that have ended
	resizeError  string
	sandboxRetry time.Time
	volumeRetry  time.Time
	stages       map[string]bool
	admitted     bool
	actions      gosync.WaitGroup
}

type action struct {
	cancel   context.CancelFunc
	deadline time.Time
}

func newWorker(services *Services, pod *v1.Pod) *worker {
	w := &worker{
		Services: services, wake: make(chan struct{}, 1), pod: pod, latest: pod, fresh: true,
		memory: map[string]*sync.Container{}, waiting: map[string]v1.ContainerStateWaiting{}, busy: map[sync.Key]*action{}, stages: map[string]bool{},
		startTime: time.Now(),
	}
	w.viewed.Store(&View{Pod: pod, Observed: &observed.Pod{UID: pod.UID}, Status: pod.Status})
	if pod.Status.StartTime != nil {
		w.startTime = pod.Status.StartTime.Time
	}
	w.noteDeletion(pod)
	return w
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	w.latest, w.fresh = pod, true
	w.noteDeletion(pod)
	w.mu.Unlock()
	w.poke()
}

// noteDeletion makes the pod end when the API says it is deleted. A second deletion can only shorten the time it has.
func (w *worker) noteDeletion(pod *v1.Pod) {
	if pod.DeletionTimestamp == nil {
		return
	}
	grace := defaultGrace
	if seconds := pod.DeletionGracePeriodSeconds; seconds != nil {
		grace = time.Duration(*seconds) * time.Second
	}
	w.end(&sync.Ending{Deadline: time.Now().Add(grace), Grace: grace, Remove: true})
}

// end starts or hastens the end of the pod; w.mu is held.
func (w *worker) end(ending *sync.Ending) {
	if old := w.ending; old != nil {
		merged := *old
		merged.Remove = old.Remove || ending.Remove
		if ending.Deadline.Before(old.Deadline) {
			merged.Deadline, merged.Grace = ending.Deadline, ending.Grace
		}
		w.ending = &merged
	} else {
		w.ending = ending
	}
	for key, a := range w.busy {
		switch key.Verb {
		case sync.SetUpVolumes, sync.CreateSandbox, sync.StartContainer:
			a.cancel()
		case sync.KillContainer:
			if a.deadline.After(w.ending.Deadline.Add(time.Second)) {
				a.cancel() // planned again with the new deadline
			}
		}
	}
}

func (w *worker) remove(grace time.Duration) {
	w.mu.Lock()
	w.finished = true
	w.end(&sync.Ending{Deadline: time.Now().Add(grace), Grace: grace, Remove: true})
	w.mu.Unlock()
	w.poke()
}

func (w *worker) fail(reason, message string, grace time.Duration, condition *v1.PodCondition) {
	w.mu.Lock()
	if w.ending == nil {
		w.extra = condition
		w.end(&sync.Ending{Deadline: time.Now().Add(grace), Grace: grace, Reason: reason, Message: message})
	}
	w.mu.Unlock()
	w.poke()
}

func (w *worker) gone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

func (w *worker) view() View { return *w.viewed.Load() }

// grace is the pod's own grace period.
func grace(pod *v1.Pod) time.Duration {
	if seconds := pod.Spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return defaultGrace
}

// loop runs until the pod is gone or ctx ends.
func (w *worker) loop(ctx context.Context) {
	log := klog.FromContext(ctx).WithValues("pod", klog.KObj(w.pod), "uid", w.pod.UID)
	ctx = klog.NewContext(ctx, log)
	defer w.actions.Wait()
	defer func() {
		if ctx.Err() == nil {
			w.Probes.Forget(w.pod.UID)
		}
	}()
	w.Objects.Register(w.pod)
	for ctx.Err() == nil {
		wait := resyncPeriod
		acted := w.actedSoFar()
		seen, err := observed.Fetch(ctx, w.Runtime, w.pod.UID)
		if err != nil {
			if ctx.Err() == nil {
				log.V(2).Info("The runtime does not answer", "err", err)
			}
			wait = fetchRetry
		} else {
			started := time.Now()
			done, again := w.step(ctx, seen, acted)
			if w.OnStep != nil {
				w.OnStep(w.doing(), time.Since(started))
			}
			if done {
				w.Objects.Forget(w.pod.UID)
				return
			}
			if !again.IsZero() {
				wait = min(wait, max(time.Until(again), 0))
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// doing is what the worker is about, as metrics name it.
func (w *worker) doing() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ending != nil:
		return "terminating"
	case w.last.Phase == v1.PodPending || w.last.Phase == "":
		return "create"
	}
	return "sync"
}

func (w *worker) actedSoFar() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acted
}

// step looks once: plan, start actions, report. seen was read when acted actions had ended. done tells that the worker's work is over.
func (w *worker) step(ctx context.Context, seen *observed.Pod, acted int) (done bool, again time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if acted != w.acted { // seen may be from before what was done meanwhile, which would be done again
		return false, now
	}
	if w.fresh || w.pending != nil {
		w.pod = w.grant(w.latest)
	}
	pod := w.pod
	w.seen = seen
	w.admit(pod, seen)
	if pod.Status.Phase == v1.PodFailed || pod.Status.Phase == v1.PodSucceeded {
		w.end(&sync.Ending{Deadline: now.Add(grace(pod)), Grace: grace(pod)})
	}
	if w.fresh {
		w.Objects.Register(pod)
	}
	if w.volumesReady && w.ending == nil && (w.fresh || now.Sub(w.volumesAt) >= resyncPeriod) {
		w.launch(ctx, sync.Action{Verb: sync.SetUpVolumes})
	}
	w.fresh = false
	ips := status.PodIPs(pod, seen, w.Facts().HostIPs)
	podIP := ""
	if len(ips) > 0 {
		podIP = ips[0]
	}
	if w.ending == nil || !w.lastEnded {
		w.Probes.Update(ctx, pod, seen, podIP, func(id string) bool { return wasReady(pod, w.RuntimeName+"://"+id) })
	}
	w.remember(pod, seen)

	plan := sync.Next(w.input(pod, seen, now))
	if plan.Fail != nil {
		w.end(&sync.Ending{Deadline: now.Add(grace(pod)), Grace: grace(pod), Reason: plan.Fail.Reason, Message: plan.Fail.Message})
		plan = sync.Next(w.input(pod, seen, now))
	} else if plan.Ended && w.ending == nil { // all containers are done: take the rest down
		w.end(&sync.Ending{Deadline: now.Add(grace(pod)), Grace: grace(pod)})
		plan = sync.Next(w.input(pod, seen, now))
	}
	for _, a := range plan.Actions {
		w.launch(ctx, a)
	}
	again = plan.Again
	w.explainWaiting(pod, seen, now)
	if !w.finished {
		w.report(pod, seen, now, plan.Ended)
	}
	w.lastEnded = plan.Ended
	w.viewed.Store(&View{Pod: pod, Status: w.last, Observed: seen, Ended: plan.Ended})
	if w.finished && plan.Ended {
		w.dead = true
		w.Status.Forget(pod.UID)
		return true, again
	}
	return false, again
}

// admit decides once, before anything of the pod exists, whether this node runs it.
func (w *worker) admit(pod *v1.Pod, seen *observed.Pod) {
	if w.admitted || w.ending != nil || w.Admit == nil {
		return
	}
	w.admitted = true
	if len(seen.Sandboxes) > 0 || len(seen.Containers) > 0 || pod.Status.Phase == v1.PodRunning {
		return
	}
	if reason, message := w.Admit(pod); reason != "" {
		w.Event(pod, "", true, reason, message)
		w.ending = &sync.Ending{Deadline: time.Now(), Reason: reason, Message: message}
	}
}

func (w *worker) input(pod *v1.Pod, seen *observed.Pod, now time.Time) sync.Input {
	busy := map[sync.Key]struct{}{}
	for key := range w.busy {
		busy[key] = struct{}{}
	}
	resources := map[string]*runtimeapi.LinuxContainerResources{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			resources[list[i].Name] = criconfig.Resources(pod, &list[i], w.Node)
		}
	}
	return sync.Input{
		Resources: resources,
		Pod:       pod, Observed: seen, Now: now, Ending: w.ending, VolumesReady: w.volumesReady, TornDown: w.tornDown, StartTime: w.startTime,
		Busy: busy, Memory: w.memory, SandboxRetry: w.sandboxRetry, VolumeRetry: w.volumeRetry,
	}
}

// remember brings the results of probes into the memory.
func (w *worker) remember(pod *v1.Pod, seen *observed.Pod) {
	for i := range seen.Containers {
		c := &seen.Containers[i]
		container, _ := sync.Find(pod, c.Name)
		if container == nil || c.State != observed.Running {
			continue
		}
		m := w.memoryOf(c.Name)
		if message, grace, bad := w.Probes.Unhealthy(container, c.ID); bad {
			m.Unhealthy[c.ID] = sync.Kill{Reason: "Unhealthy", Message: message, Grace: grace}
		}
		m.Started[c.ID] = w.Probes.Started(container, c.ID) && !w.starting(c)
	}
}

// starting tells whether the container's start, with its hook, is still under way.
func (w *worker) starting(c *observed.Container) bool {
	_, busy := w.busy[sync.Key{Verb: sync.StartContainer, Object: c.Name}]
	return busy
}

func (w *worker) memoryOf(name string) *sync.Container {
	m := w.memory[name]
	if m == nil {
		m = &sync.Container{Started: map[string]bool{}, Unhealthy: map[string]sync.Kill{}}
		w.memory[name] = m
	}
	return m
}

// explainWaiting says of containers that ended and will start again why they do not run yet.
func (w *worker) explainWaiting(pod *v1.Pod, seen *observed.Pod, now time.Time) {
	if w.ending != nil {
		return
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			container := &list[i]
			newest := seen.Newest(container.Name)
			if newest == nil {
				continue
			}
			const crash = "CrashLoopBackOff"
			_, kind := sync.Find(pod, container.Name)
			until := w.memoryOf(container.Name).Backoff.Until(newest)
			switch {
			case newest.State == observed.Exited && sync.ShouldRestart(pod, container, kind, newest) && now.Before(until):
				if w.waiting[container.Name].Reason != crash {
					delay := w.memoryOf(container.Name).Backoff.Delay()
					message := fmt.Sprintf("back-off %v restarting failed container=%s pod=%s(%s)", delay, container.Name, podName(pod), pod.UID)
					w.waiting[container.Name] = v1.ContainerStateWaiting{Reason: crash, Message: message}
					w.Event(pod, container.Name, true, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", container.Name, podName(pod)+"("+string(pod.UID)+")"))
				}
			case w.waiting[container.Name].Reason == crash || newest.State == observed.Running && !w.starting(newest):
				delete(w.waiting, container.Name)
			}
		}
	}
}

func podName(pod *v1.Pod) string { return pod.Name + "_" + pod.Namespace }

// report sends the status.
func (w *worker) report(pod *v1.Pod, seen *observed.Pod, now time.Time, ended bool) {
	out := status.Generate(status.Input{
		Pod: pod, Observed: seen, Before: &w.last, Now: now, StartTime: w.startTime, HostIPs: w.Facts().HostIPs, Ending: w.ending, Ended: ended,
		Waiting: w.waiting, RuntimeName: w.RuntimeName, Message: status.ReadMessage,
		Started: func(_ *v1.Container, id string) bool { return w.startedID(id) },
		Ready:   w.Probes.Ready,
		Health:  w.Health,
	})
	if w.extra != nil {
		setCondition(&out, *w.extra, now)
	}
	w.resizeConditions(pod, &out, now)
	w.last = out
	w.Status.Set(pod, out, ended && pod.DeletionTimestamp != nil)
	w.stage(pod, &out)
}

func (w *worker) startedID(id string) bool {
	for _, m := range w.memory {
		if m.Started[id] {
			return true
		}
	}
	return false
}

// stage measures how long the pod took from its creation until it first ran.
func (w *worker) stage(pod *v1.Pod, out *v1.PodStatus) {
	if out.Phase == v1.PodRunning && !w.stages["running"] {
		w.stages["running"] = true
		if pod.Status.Phase == v1.PodPending && w.OnStage != nil {
			w.OnStage("running", time.Since(w.startTime))
		}
	}
}

func setCondition(out *v1.PodStatus, c v1.PodCondition, now time.Time) {
	for i := range out.Conditions {
		if out.Conditions[i].Type == c.Type {
			if out.Conditions[i].Status == c.Status {
				c.LastTransitionTime = out.Conditions[i].LastTransitionTime
			}
			out.Conditions[i] = c
			return
		}
	}
	c.LastTransitionTime = metav1.NewTime(now)
	out.Conditions = append(out.Conditions, c)
}

// wasReady tells what the API last said of a container.
func wasReady(pod *v1.Pod, id string) bool {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].ContainerID == id {
				return list[i].Ready
			}
		}
	}
	return false
}
