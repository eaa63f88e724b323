// SPDX-License-Identifier: Apache-2.0

// Package sync decides what to do next for one pod. Next is a pure function of the pod as the API has it, of what the runtime
// says, of what the pod's worker remembers, and of the time; it does nothing itself.
//
//	pod (API) ─┐
//	observed ──┼──▶ Next ──▶ actions for the worker, and when to look again
//	memory ────┘
//
// Order of a start: sandbox, then init containers one by one (a restartable one only has to have started), then all others at once.
// Order of an end: all containers but the restartable init containers at once, then those from last to first, then the sandbox.
package sync

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

// Input is all that the next actions depend on.
type Input struct {
	Pod      *v1.Pod
	Observed *observed.Pod
	Now      time.Time

	Ending       *Ending          // not nil once the pod has to end
	VolumesReady bool             // all volumes are set up
	TornDown     bool             // volumes and cgroups are gone again
	StartTime    time.Time        // when the kubelet first saw the pod
	Busy         map[Key]struct{} // actions under way; none of them is planned again
	Memory       map[string]*Container
	// Resources are what running containers should have, by name; one whose runtime settings differ is resized.
	Resources    map[string]*runtimeapi.LinuxContainerResources
	SandboxRetry time.Time // a sandbox that could not be made is not tried again before
	VolumeRetry  time.Time // the same for volumes
}

// Ending says that a pod ends, and why.
type Ending struct {
	Deadline time.Time // when containers that still run are killed
	Grace    time.Duration
	Reason   string // of containers that this kills, and of the pod when it fails: Evicted, DeadlineExceeded, ...
	Message  string
	Remove   bool // the pod is deleted: nothing of it may stay, neither containers nor sandboxes
}

// Container is what the worker remembers of one container by name, over its instances.
type Container struct {
	Started   map[string]bool // by container id: post-start hook done and startup probe passed
	Unhealthy map[string]Kill // by container id: a probe failed for good
	Resize    time.Time       // an attempt to resize failed; not again before
	Retry     time.Time       // an attempt to start failed; not again before
	Backoff   Backoff
}

// Kill is why a container is killed.
type Kill struct {
	Reason, Message string
	Grace           time.Duration // instead of the pod's own; zero: the pod's
}

// Verb is what an action does.
type Verb int

const (
	SetUpVolumes Verb = iota
	CreateSandbox
	StopSandbox
	RemoveSandbox
	StartContainer
	KillContainer
	ResizeContainer
	RemoveContainer
	TearDown // volumes and cgroups, when nothing of the pod runs any more
)

func (v Verb) String() string {
	return [...]string{"set up volumes", "create sandbox", "stop sandbox", "remove sandbox", "start container", "kill container", "resize container", "remove container", "tear down"}[v]
}

// Key identifies an action under way: the verb, and the container's name or the id it works on.
type Key struct {
	Verb   Verb
	Object string
}

// Action is one thing to do.
type Action struct {
	Verb      Verb
	Container *v1.Container // StartContainer; KillContainer when the pod still has it
	Kind      Kind
	Attempt   int    // CreateSandbox, StartContainer: number of earlier ones
	ID        string // of the sandbox or container to act on; the sandbox to start in
	Instance  string // StartContainer: the instance to start, which was made before; empty: make one
	Kill      Kill
	Deadline  time.Time // KillContainer: zero means the pod's own grace period from now
}

// Key returns the action's identity.
func (a Action) Key() Key {
	switch a.Verb {
	case StartContainer:
		return Key{a.Verb, a.Container.Name}
	case SetUpVolumes, CreateSandbox, TearDown:
		return Key{Verb: a.Verb}
	}
	return Key{a.Verb, a.ID}
}

// Kind is where in the PodSpec a container stands.
type Kind int

const (
	Regular Kind = iota
	Init
	Sidecar // init container with restartPolicy Always
	Ephemeral
)

// Plan is what to do now.
type Plan struct {
	Actions []Action
	Again   time.Time // when time alone changes the plan; zero: never
	Ended   bool      // nothing of the pod runs, and nothing will
	Fail    *Kill     // the pod must end as failed: the worker answers with an Ending
}

// Next returns what to do for the pod now.
func Next(in Input) Plan {
	p := &planner{Input: in}
	if in.Ending != nil {
		p.end()
		return p.plan
	}
	if deadline, ok := activeDeadline(in); ok {
		if !in.Now.Before(deadline) {
			p.plan.Fail = &Kill{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
			return p.plan
		}
		p.again(deadline)
	}
	p.run()
	p.collect()
	return p.plan
}

func activeDeadline(in Input) (time.Time, bool) {
	if in.Pod.Spec.ActiveDeadlineSeconds == nil || in.StartTime.IsZero() {
		return time.Time{}, false
	}
	return in.StartTime.Add(time.Duration(*in.Pod.Spec.ActiveDeadlineSeconds) * time.Second), true
}

type planner struct {
	Input
	plan Plan
}

func (p *planner) do(a Action) {
	if _, busy := p.Busy[a.Key()]; !busy {
		p.plan.Actions = append(p.plan.Actions, a)
	}
}

func (p *planner) busy(verb Verb, object string) bool {
	_, busy := p.Busy[Key{verb, object}]
	return busy
}

func (p *planner) again(t time.Time) {
	if p.plan.Again.IsZero() || t.Before(p.plan.Again) {
		p.plan.Again = t
	}
}

// run plans for a pod that shall live.
func (p *planner) run() {
	if Finished(p.Pod, p.Observed) {
		p.plan.Ended = true
		return
	}
	if !p.VolumesReady {
		if p.Now.Before(p.VolumeRetry) {
			p.again(p.VolumeRetry)
		} else {
			p.do(Action{Verb: SetUpVolumes})
		}
	}
	sandbox := p.Observed.Ready()
	if sandbox == nil {
		p.sandbox()
		return
	}
	for i := range p.Observed.Containers { // left over from an earlier sandbox
		if c := &p.Observed.Containers[i]; c.State == observed.Running && c.SandboxID != sandbox.ID {
			p.do(Action{Verb: KillContainer, ID: c.ID, Kill: sandboxChanged})
		}
	}
	if !p.VolumesReady {
		return
	}
	for i := range p.Pod.Spec.EphemeralContainers {
		container := (*v1.Container)(&p.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if newest := p.Observed.Newest(container.Name); newest == nil || newest.State == observed.Created {
			p.start(container, Ephemeral, sandbox, newest)
		}
	}
	if !p.initialise(sandbox) {
		return
	}
	for i := range p.Pod.Spec.Containers {
		p.keep(&p.Pod.Spec.Containers[i], Regular, sandbox)
	}
}

// sandbox plans a new sandbox. Containers of an old one cannot go on.
func (p *planner) sandbox() {
	waiting := false
	for i := range p.Observed.Containers {
		if c := &p.Observed.Containers[i]; c.State == observed.Running {
			p.do(Action{Verb: KillContainer, ID: c.ID, Kill: sandboxChanged})
			waiting = true
		}
	}
	if waiting {
		return
	}
	if p.Now.Before(p.SandboxRetry) {
		p.again(p.SandboxRetry)
		return
	}
	attempt := 0
	if len(p.Observed.Sandboxes) > 0 {
		attempt = int(p.Observed.Sandboxes[0].Attempt) + 1
	}
	p.do(Action{Verb: CreateSandbox, Attempt: attempt})
}

// initialise plans init containers and tells whether the others may start.
func (p *planner) initialise(sandbox *observed.Sandbox) bool {
	inits := p.Pod.Spec.InitContainers
	reached := p.reached(sandbox)
	for i := range inits {
		container := &inits[i]
		current := p.inSandbox(container.Name, sandbox)
		if IsSidecar(container) {
			p.keep(container, Sidecar, sandbox)
			if i < reached {
				continue
			}
			if current == nil || current.State != observed.Running || !p.memory(container.Name).Started[current.ID] {
				return false
			}
			continue
		}
		if i < reached {
			continue
		}
		switch {
		case current == nil, current.State == observed.Created:
			p.start(container, Init, sandbox, p.Observed.Newest(container.Name))
			return false
		case current.State == observed.Unknown:
			p.killUnknown(container, Init, current)
			return false
		case current.State == observed.Running:
			return false
		case current.ExitCode != 0:
			p.restart(container, Init, sandbox, current) // a pod that may not restart it is Finished
			return false
		}
	}
	return true
}

// reached is how many init containers must have done their part already, because a later container exists in this sandbox.
func (p *planner) reached(sandbox *observed.Sandbox) int {
	for i := range p.Pod.Spec.Containers {
		if p.inSandbox(p.Pod.Spec.Containers[i].Name, sandbox) != nil {
			return len(p.Pod.Spec.InitContainers)
		}
	}
	for i := len(p.Pod.Spec.InitContainers) - 1; i > 0; i-- {
		if p.inSandbox(p.Pod.Spec.InitContainers[i].Name, sandbox) != nil {
			return i
		}
	}
	return 0
}

func (p *planner) inSandbox(name string, sandbox *observed.Sandbox) *observed.Container {
	if c := p.Observed.Newest(name); c != nil && c.SandboxID == sandbox.ID {
		return c
	}
	return nil
}

// keep plans for a container that should run: start, restart, or kill an instance that is not what it should be.
func (p *planner) keep(container *v1.Container, kind Kind, sandbox *observed.Sandbox) {
	newest := p.Observed.Newest(container.Name)
	if newest == nil {
		p.start(container, kind, sandbox, nil)
		return
	}
	if newest.State == observed.Running && newest.SandboxID == sandbox.ID {
		if newest.Hash != "" && newest.Hash != Hash(container) {
			p.do(Action{Verb: KillContainer, Container: container, Kind: kind, ID: newest.ID,
				Kill: Kill{Reason: "Killing", Message: fmt.Sprintf("Container %s definition changed, will be restarted", container.Name)}})
		} else if kill, bad := p.memory(container.Name).Unhealthy[newest.ID]; bad {
			p.do(Action{Verb: KillContainer, Container: container, Kind: kind, ID: newest.ID, Kill: kill})
		} else {
			p.resize(container, kind, newest)
		}
		return
	}
	if newest.State == observed.Unknown && newest.SandboxID == sandbox.ID {
		p.killUnknown(container, kind, newest)
		return
	}
	if newest.State == observed.Exited && newest.SandboxID != sandbox.ID && kind == Sidecar {
		p.start(container, kind, sandbox, newest)
		return
	}
	if ShouldRestart(p.Pod, container, kind, newest) {
		p.restart(container, kind, sandbox, newest)
	}
}

// killUnknown ends an instance that may run although the runtime cannot tell: never shall two run.
func (p *planner) killUnknown(container *v1.Container, kind Kind, c *observed.Container) {
	p.do(Action{Verb: KillContainer, Container: container, Kind: kind, ID: c.ID,
		Kill: Kill{Reason: "Killing", Message: fmt.Sprintf("Container %s is in a state that the runtime does not know, it is ended first", container.Name)}})
}

// resize plans to give a running container other resources, in place or by a restart, as its resize policy says.
func (p *planner) resize(container *v1.Container, kind Kind, running *observed.Container) {
	want, have := p.Resources[container.Name], running.Resources
	if want == nil || have == nil {
		return
	}
	cpu := want.CpuShares != have.CpuShares || want.CpuQuota != have.CpuQuota && (want.CpuQuota > 0 || have.CpuQuota > 0)
	memory := want.MemoryLimitInBytes != have.MemoryLimitInBytes
	if !cpu && !memory {
		return
	}
	if retry := p.memory(container.Name).Resize; p.Now.Before(retry) {
		p.again(retry)
		return
	}
	for _, policy := range container.ResizePolicy {
		if policy.RestartPolicy == v1.RestartContainer && (policy.ResourceName == v1.ResourceCPU && cpu || policy.ResourceName == v1.ResourceMemory && memory) {
			p.do(Action{Verb: KillContainer, Container: container, Kind: kind, ID: running.ID,
				Kill: Kill{Reason: "Resizing", Message: fmt.Sprintf("Container %s resize requires restart", container.Name)}})
			return
		}
	}
	p.do(Action{Verb: ResizeContainer, Container: container, Kind: kind, ID: running.ID})
}

// restart starts the container again after its back-off.
func (p *planner) restart(container *v1.Container, kind Kind, sandbox *observed.Sandbox, last *observed.Container) {
	if last.State == observed.Exited {
		if until := p.memory(container.Name).Backoff.Until(last); p.Now.Before(until) {
			p.again(until)
			return
		}
	}
	p.start(container, kind, sandbox, last)
}

// start plans a start. An instance that was made in this sandbox and not started yet, by an agent that ended in between, is the one to start: its start may
// be under way in the runtime, which starts none twice, while another instance beside it would be a second run.
func (p *planner) start(container *v1.Container, kind Kind, sandbox *observed.Sandbox, last *observed.Container) {
	if retry := p.memory(container.Name).Retry; p.Now.Before(retry) {
		p.again(retry)
		return
	}
	if last != nil && p.busy(KillContainer, last.ID) {
		return
	}
	if last != nil && last.State == observed.Created && last.SandboxID == sandbox.ID {
		p.do(Action{Verb: StartContainer, Container: container, Kind: kind, ID: sandbox.ID, Instance: last.ID, Attempt: last.Attempt})
		return
	}
	attempt := 0
	if last != nil {
		attempt = last.Attempt + 1
	} else if status := apiStatus(p.Pod, container.Name); status != nil && (status.ContainerID != "" || status.RestartCount > 0) && kind != Ephemeral {
		attempt = int(status.RestartCount) + 1 // the runtime lost all of them
	}
	p.do(Action{Verb: StartContainer, Container: container, Kind: kind, ID: sandbox.ID, Attempt: attempt})
}

// end plans the end of the pod.
func (p *planner) end() {
	deadline := p.Ending.Deadline
	kill := func(c *observed.Container) {
		container, kind := Find(p.Pod, c.Name)
		p.do(Action{Verb: KillContainer, ID: c.ID, Container: container, Kind: kind, Deadline: deadline,
			Kill: Kill{Reason: "Killing", Message: "Stopping container " + c.Name}})
	}
	waiting := false
	running := map[string]*observed.Container{}
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		if c.State != observed.Running {
			continue
		}
		if _, kind := Find(p.Pod, c.Name); kind == Sidecar {
			running[c.Name] = c
			continue
		}
		kill(c)
		waiting = true
	}
	for key := range p.Busy { // what is under way ends by its cancelled context, or when the container has started; then it is looked at again
		waiting = waiting || key.Verb == StartContainer || key.Verb == CreateSandbox || key.Verb == SetUpVolumes
	}
	if waiting {
		return
	}
	for i := range p.Observed.Containers { // its start may be under way in the runtime, which removes it only after that
		if c := &p.Observed.Containers[i]; c.State == observed.Created {
			p.do(Action{Verb: RemoveContainer, ID: c.ID})
			waiting = true
		}
	}
	if waiting {
		return
	}
	for _, container := range slices.Backward(p.Pod.Spec.InitContainers) {
		if c := running[container.Name]; c != nil {
			kill(c)
			return
		}
	}
	for i := range p.Observed.Sandboxes {
		if s := &p.Observed.Sandboxes[i]; s.Ready {
			p.do(Action{Verb: StopSandbox, ID: s.ID})
			waiting = true
		}
	}
	if waiting {
		return
	}
	if !p.TornDown {
		p.do(Action{Verb: TearDown})
		return
	}
	if p.Ending.Remove {
		for i := range p.Observed.Sandboxes {
			p.do(Action{Verb: RemoveSandbox, ID: p.Observed.Sandboxes[i].ID})
			waiting = true
		}
		for i := range p.Observed.Containers {
			if c := &p.Observed.Containers[i]; !slices.ContainsFunc(p.Observed.Sandboxes, func(s observed.Sandbox) bool { return s.ID == c.SandboxID }) {
				p.do(Action{Verb: RemoveContainer, ID: c.ID})
				waiting = true
			}
		}
	}
	p.plan.Ended = !waiting && len(p.Busy) == 0
}

// collect plans to remove instances nobody will ask for: all but the newest two of each container.
func (p *planner) collect() {
	count := map[string]int{}
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		count[c.Name]++
		if count[c.Name] > 2 && c.State != observed.Running {
			p.do(Action{Verb: RemoveContainer, ID: c.ID})
		}
	}
	ready := p.Observed.Ready()
	for i := range p.Observed.Sandboxes {
		s := &p.Observed.Sandboxes[i]
		used := slices.ContainsFunc(p.Observed.Containers, func(c observed.Container) bool { return c.SandboxID == s.ID })
		if ready != nil && s.ID != ready.ID && !used {
			p.do(Action{Verb: RemoveSandbox, ID: s.ID})
		}
	}
}

func (p *planner) memory(name string) *Container {
	if m := p.Memory[name]; m != nil {
		return m
	}
	return &Container{}
}

func apiStatus(pod *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

var sandboxChanged = Kill{Reason: "SandboxChanged", Message: "Pod sandbox changed, it will be killed and re-created."}
