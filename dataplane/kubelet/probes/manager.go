// SPDX-License-Identifier: Apache-2.0

// Package probes asks containers how they are: a goroutine per probe of a running container, and a table of what they found.
//
// Input: Update with each pod's containers. Output: Started, Ready and Unhealthy, and a call of changed when one of them changed.
package probes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

// Kind is what a probe decides.
type Kind int

const (
	Startup Kind = iota
	Liveness
	Readiness
)

func (k Kind) String() string { return [...]string{"Startup", "Liveness", "Readiness"}[k] }

type key struct {
	containerID string
	kind        Kind
}

type worker struct {
	uid    types.UID
	cancel context.CancelFunc
}

// Manager runs probes. Safe for concurrent use.
type Manager struct {
	exec    Exec
	changed func(types.UID)
	event   func(pod *v1.Pod, container, reason, message string)

	// Probed, when set before the first Update, is told what each probe found: successful or failed.
	Probed func(pod *v1.Pod, container string, kind Kind, result string)

	mu      sync.Mutex
	workers map[key]worker
	results map[key]result
	running sync.WaitGroup
}

type result struct {
	good    bool
	message string
	probe   *v1.Probe
}

// NewManager returns a manager without probes. changed is called from the probes' goroutines.
func NewManager(exec Exec, changed func(types.UID), event func(pod *v1.Pod, container, reason, message string)) *Manager {
	return &Manager{exec: exec, changed: changed, event: event, workers: map[key]worker{}, results: map[key]result{}}
}

// Update makes the pod's running containers, and nothing else of it, be probed. Probes end with ctx, which must be the same in every call.
// wasReady tells by container id what the API last said: so a new kubelet does not make ready containers unready until their first probe.
func (m *Manager) Update(ctx context.Context, pod *v1.Pod, seen *observed.Pod, podIP string, wasReady func(id string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keep := map[key]bool{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			container := &list[i]
			newest := seen.Newest(container.Name)
			if newest == nil || newest.State != observed.Running {
				continue
			}
			for kind, probe := range map[Kind]*v1.Probe{Startup: container.StartupProbe, Liveness: container.LivenessProbe, Readiness: container.ReadinessProbe} {
				if probe == nil {
					continue
				}
				k := key{newest.ID, kind}
				keep[k] = true
				if _, ok := m.workers[k]; ok {
					continue
				}
				if podIP == "" && probe.Exec == nil {
					delete(keep, k)
					continue
				}
				switch {
				case kind == Liveness:
					m.results[k] = result{good: true}
				case wasReady(newest.ID):
					m.results[k] = result{good: true}
				}
				probing, cancel := context.WithCancel(ctx)
				m.workers[k] = worker{uid: pod.UID, cancel: cancel}
				target := Target{Pod: pod, Container: container, ContainerID: newest.ID, PodIP: podIP}
				startedAt := newest.StartedAt
				m.running.Go(func() { m.run(probing, k, probe, target, startedAt) })
			}
		}
	}
	for k, w := range m.workers {
		if w.uid == pod.UID && !keep[k] {
			w.cancel()
			delete(m.workers, k)
			delete(m.results, k)
		}
	}
}

// Forget ends all probes of a pod.
func (m *Manager) Forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, w := range m.workers {
		if w.uid == uid {
			w.cancel()
			delete(m.workers, k)
			delete(m.results, k)
		}
	}
}

// Wait returns when all probes have ended, which they do after ctx of Update.
func (m *Manager) Wait() { m.running.Wait() }

// Started tells whether the container's startup probe, if it has one, has passed.
func (m *Manager) Started(container *v1.Container, id string) bool {
	return container.StartupProbe == nil || m.good(key{id, Startup})
}

// Ready tells whether the container's readiness probe, if it has one, says so.
func (m *Manager) Ready(container *v1.Container, id string) bool {
	return container.ReadinessProbe == nil || m.good(key{id, Readiness})
}

func (m *Manager) good(k key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.results[k].good
}

// Unhealthy tells that a container must be killed, why, and the grace its probe gives it (zero: the pod's own).
func (m *Manager) Unhealthy(container *v1.Container, id string) (message string, grace time.Duration, bad bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, kind := range []Kind{Startup, Liveness} {
		if r, ok := m.results[key{id, kind}]; ok && !r.good && r.probe != nil {
			if seconds := r.probe.TerminationGracePeriodSeconds; seconds != nil {
				grace = time.Duration(*seconds) * time.Second
			}
			return fmt.Sprintf("Container %s failed %s probe, will be restarted", container.Name, strings.ToLower(kind.String())), grace, true
		}
	}
	return "", 0, false
}

// run probes one container until ctx ends.
func (m *Manager) run(ctx context.Context, k key, probe *v1.Probe, target Target, startedAt time.Time) {
	period := time.Duration(max(probe.PeriodSeconds, 1)) * time.Second
	delay := time.Until(startedAt.Add(time.Duration(probe.InitialDelaySeconds) * time.Second))
	timer := time.NewTimer(max(delay, 0))
	defer timer.Stop()
	good, bad := int32(0), int32(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if k.kind != Startup && !m.Started(target.Container, k.containerID) {
			timer.Reset(min(period, time.Second))
			continue
		}
		output, err := Run(ctx, probe, target, m.exec)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrWarning) {
			m.event(target.Pod, target.Container.Name, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", k.kind, output))
			err = nil
		}
		if m.Probed != nil {
			m.Probed(target.Pod, target.Container.Name, k.kind, map[bool]string{true: "successful", false: "failed"}[err == nil])
		}
		if err == nil {
			good, bad = good+1, 0
			if good >= max(probe.SuccessThreshold, 1) {
				m.set(k, target.Pod.UID, result{good: true})
				if k.kind == Startup {
					return
				}
			}
		} else {
			good, bad = 0, bad+1
			if output == "" {
				output = err.Error()
			}
			m.event(target.Pod, target.Container.Name, "Unhealthy", fmt.Sprintf("%s probe failed: %s", k.kind, output))
			if bad >= max(probe.FailureThreshold, 1) {
				m.set(k, target.Pod.UID, result{message: output, probe: probe})
				if k.kind != Readiness {
					return // the container will be killed; its next instance is probed anew
				}
			}
		}
		timer.Reset(period)
	}
}

func (m *Manager) set(k key, uid types.UID, r result) {
	m.mu.Lock()
	_, current := m.workers[k]
	old := m.results[k]
	if current {
		m.results[k] = r
	}
	m.mu.Unlock()
	if current && (old.good != r.good || !r.good && k.kind != Readiness) {
		m.changed(uid)
	}
}
