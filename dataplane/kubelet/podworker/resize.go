// SPDX-License-Identifier: Apache-2.0

package podworker

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

const resizeRetry = 5 * time.Second

// grant returns the pod with the resources it is given: those its spec asks for if they fit on this node, else those it had; then pending says
// why. w.mu is held, or the worker is being made.
func (w *worker) grant(pod *v1.Pod) *v1.Pod {
	if w.granted == nil {
		w.granted = grantedBefore(pod)
	}
	w.pending = nil
	changed := false
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if had, known := w.granted[list[i].Name]; known && !sameResources(had, list[i].Resources) {
				changed = true
			}
		}
	}
	if changed && w.Fits != nil {
		if reason, message := w.Fits(pod); reason != "" {
			w.pending = &v1.PodCondition{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: reason, Message: message}
			pod = pod.DeepCopy()
			for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
				for i := range list {
					if had, known := w.granted[list[i].Name]; known {
						list[i].Resources.Requests, list[i].Resources.Limits = had.Requests, had.Limits
					}
				}
			}
			return pod
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			w.granted[list[i].Name] = list[i].Resources
		}
	}
	return pod
}

// grantedBefore reads from the status what an earlier kubelet gave the containers.
func grantedBefore(pod *v1.Pod) map[string]v1.ResourceRequirements {
	out := map[string]v1.ResourceRequirements{}
	pending := slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodResizePending })
	if !pending {
		return out
	}
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if r := list[i].Resources; r != nil {
				out[list[i].Name] = v1.ResourceRequirements{Requests: r.Requests, Limits: r.Limits}
			}
		}
	}
	return out
}

func sameResources(a, b v1.ResourceRequirements) bool {
	return equality.Semantic.DeepEqual(a.Requests, b.Requests) && equality.Semantic.DeepEqual(a.Limits, b.Limits)
}

// resizeConditions says that a resize waits, is under way, or failed.
func (w *worker) resizeConditions(pod *v1.Pod, out *v1.PodStatus, now time.Time) {
	var underWay *v1.PodCondition
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			running := w.seen.Newest(list[i].Name)
			if running == nil || running.Resources == nil || !w.resizing(list[i].Name, running.ID) {
				continue
			}
			underWay = &v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue}
			if now.Before(w.memoryOf(list[i].Name).Resize) {
				underWay.Reason, underWay.Message = v1.PodReasonError, w.resizeError
			}
		}
	}
	for kind, condition := range map[v1.PodConditionType]*v1.PodCondition{v1.PodResizePending: w.pending, v1.PodResizeInProgress: underWay} {
		if condition == nil {
			out.Conditions = slices.DeleteFunc(out.Conditions, func(c v1.PodCondition) bool { return c.Type == kind })
			continue
		}
		condition.ObservedGeneration = pod.Generation
		setCondition(out, *condition, now)
	}
}

func (w *worker) resizing(name, id string) bool {
	_, busy := w.busy[sync.Key{Verb: sync.ResizeContainer, Object: id}]
	return busy || time.Now().Before(w.memoryOf(name).Resize)
}

// resize changes a running container's cgroup settings, the pod's first where it grows and last where it shrinks: the pod's limits are set
// twice, which costs little.
func (w *worker) resize(ctx context.Context, pod *v1.Pod, container *v1.Container, id string) error {
	resources := &runtimeapi.ContainerResources{Linux: criconfig.Resources(pod, container, w.Node)}
	_ = w.Cgroups.Create(pod) // fails when it shrinks below what the container may still use; the second call is the one that counts
	err := w.Runtime.UpdateContainerResources(ctx, id, resources)
	if err == nil {
		err = w.Cgroups.Create(pod)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.memoryOf(container.Name).Resize = time.Now().Add(resizeRetry)
		w.resizeError = err.Error()
		return err
	}
	w.memoryOf(container.Name).Resize = time.Time{}
	return nil
}
