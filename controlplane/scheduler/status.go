// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// statusWriter writes PodScheduled conditions and nominated nodes without holding the scheduler up. Only the newest wish per pod counts.
type statusWriter struct {
	s       *Scheduler
	mu      sync.Mutex
	pending map[types.UID]*statusWish
	order   []types.UID
	more    chan struct{}
}

type statusWish struct {
	pod       *v1.Pod
	reason    string
	message   string
	nominated string
}

func newStatusWriter(s *Scheduler) *statusWriter {
	return &statusWriter{s: s, pending: map[types.UID]*statusWish{}, more: make(chan struct{}, 1)}
}

// unschedulable says that pod has no node and why. A nominated name of "" clears what stands there.
func (w *statusWriter) unschedulable(pod *v1.Pod, reason, message, nominated string) {
	w.s.events.warn(pod, "FailedScheduling", "Scheduling", message)
	if current := podScheduled(pod); current != nil && current.Status == v1.ConditionFalse && current.Reason == reason && current.Message == message &&
		pod.Status.NominatedNodeName == nominated {
		return
	}
	w.mu.Lock()
	if w.pending[pod.UID] == nil {
		w.order = append(w.order, pod.UID)
	}
	w.pending[pod.UID] = &statusWish{pod, reason, message, nominated}
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func podScheduled(pod *v1.Pod) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == v1.PodScheduled {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func (w *statusWriter) run(ctx context.Context) {
	for {
		w.mu.Lock()
		var wish *statusWish
		if len(w.order) > 0 {
			wish = w.pending[w.order[0]]
			delete(w.pending, w.order[0])
			w.order = w.order[1:]
		}
		w.mu.Unlock()
		if wish == nil {
			select {
			case <-ctx.Done():
				return
			case <-w.more:
			}
			continue
		}
		if err := w.write(ctx, wish); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Cannot write the pod's status; it is written again after the next attempt", "pod", klog.KObj(wish.pod))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (w *statusWriter) write(ctx context.Context, wish *statusWish) error {
	pod := wish.pod
	now := metav1.NewTime(w.s.clock.Now())
	changed := now
	if current := podScheduled(pod); current != nil && current.Status == v1.ConditionFalse {
		changed = current.LastTransitionTime
	}
	status := map[string]any{"conditions": []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: wish.reason,
		Message: wish.message, LastTransitionTime: changed, ObservedGeneration: pod.Generation}}}
	if wish.nominated != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = wish.nominated
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = w.s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
