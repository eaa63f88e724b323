// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

const (
	initialBackoff = 10 * time.Second
	maxBackoff     = 5 * time.Minute
	resetAfter     = 10 * time.Minute // a container that ran this long starts again without delay
)

// Backoff is the growing delay between restarts of one container: none before the first, then 10 s, 20 s, ... 5 min.
type Backoff struct{ delay time.Duration }

// Until is when the container may start again after last ended.
func (b Backoff) Until(last *observed.Container) time.Time {
	if last.FinishedAt.Sub(last.StartedAt) >= resetAfter {
		return time.Time{}
	}
	return last.FinishedAt.Add(b.delay)
}

// Delay is the present delay.
func (b Backoff) Delay() time.Duration { return b.delay }

// Restarted returns the back-off to keep once the container was started again after last.
func (b Backoff) Restarted(last *observed.Container) Backoff {
	if last == nil {
		return b
	}
	if b.delay == 0 || last.FinishedAt.Sub(last.StartedAt) >= resetAfter {
		return Backoff{initialBackoff}
	}
	return Backoff{min(2*b.delay, maxBackoff)}
}

// IsSidecar tells whether an init container is a restartable one.
func IsSidecar(container *v1.Container) bool {
	return container.RestartPolicy != nil && *container.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Find returns the container of that name and where it stands in the spec; nil when the pod has none.
func Find(pod *v1.Pod, name string) (*v1.Container, Kind) {
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; c.Name == name {
			return c, Regular
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == name {
			if IsSidecar(c) {
				return c, Sidecar
			}
			return c, Init
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if c := (*v1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon); c.Name == name {
			return c, Ephemeral
		}
	}
	return nil, Regular
}

// ShouldRestart tells whether a container whose newest instance does not run is to be started again: by the container's own restart
// policy and rules when it has them, else by the pod's.
func ShouldRestart(pod *v1.Pod, container *v1.Container, kind Kind, last *observed.Container) bool {
	switch {
	case kind == Ephemeral || last.State == observed.Running:
		return false
	case kind == Sidecar || last.State == observed.Created || last.State == observed.Unknown:
		return true
	}
	policy := v1.ContainerRestartPolicy(pod.Spec.RestartPolicy)
	if policy == "" {
		policy = v1.ContainerRestartPolicyAlways
	}
	if container.RestartPolicy != nil {
		policy = *container.RestartPolicy
		for _, rule := range container.RestartPolicyRules {
			if rule.Action == v1.ContainerRestartRuleActionRestart && matches(rule.ExitCodes, last.ExitCode) {
				return true
			}
		}
	}
	switch policy {
	case v1.ContainerRestartPolicyNever:
		return false
	case v1.ContainerRestartPolicyOnFailure:
		return last.ExitCode != 0
	}
	return kind == Regular || last.ExitCode != 0
}

func matches(codes *v1.ContainerRestartRuleOnExitCodes, code int32) bool {
	if codes == nil {
		return false
	}
	listed := slices.Contains(codes.Values, code)
	return codes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn && listed || codes.Operator == v1.ContainerRestartRuleOnExitCodesOpNotIn && !listed
}

// Finished tells that no container of the pod will run again: an init container failed for good, or all regular containers ended for good.
func Finished(pod *v1.Pod, seen *observed.Pod) bool {
	if failed := FailedInit(pod, seen); failed != nil {
		return true
	}
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		last := seen.Newest(container.Name)
		if last == nil || last.State != observed.Exited {
			return false
		}
		if ShouldRestart(pod, container, Regular, last) {
			return false
		}
	}
	return len(pod.Spec.Containers) > 0
}

// FailedInit returns the instance of an init container that failed and may not be started again.
func FailedInit(pod *v1.Pod, seen *observed.Pod) *observed.Container {
	for i := range pod.Spec.InitContainers {
		container := &pod.Spec.InitContainers[i]
		if IsSidecar(container) {
			continue
		}
		if last := seen.Newest(container.Name); last != nil && last.State == observed.Exited && last.ExitCode != 0 &&
			!ShouldRestart(pod, container, Init, last) {
			return last
		}
	}
	return nil
}

// Hash changes when a running container must be replaced: when its name or image changes. Resources can change in place.
func Hash(container *v1.Container) string {
	data, err := json.Marshal([]string{container.Name, container.Image})
	if err != nil {
		panic(err) // two strings
	}
	sum := fnv.New32a()
	sum.Write(data)
	return fmt.Sprintf("%x", sum.Sum32())
}
