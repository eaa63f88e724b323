// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

func klogPod(pod *v1.Pod) klog.ObjectRef { return klog.KObj(pod) }

// bind makes an assumed pod real. If that fails the pod is taken back and tried again after its back-off.
func (s *Scheduler) bind(ctx context.Context, item *queue.Item, node string) {
	pod := item.Pod
	err := s.prepare(ctx, item, node)
	if err == nil {
		err = s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     v1.ObjectReference{Kind: "Node", Name: node},
		}, metav1.CreateOptions{})
		if err != nil {
			err = fmt.Errorf("bind to node %s: %w", node, err)
		}
	}
	if err == nil {
		podAttempts.Observe(float64(item.Attempts))
		podSLI.WithLabelValues(strconv.Itoa(min(item.Attempts, 16))).Observe(s.clock.Since(item.Added).Seconds())
		s.events.scheduled(pod, node)
		return
	}
	if ctx.Err() != nil {
		return // the next leader starts from what the API server has
	}
	observeAttempt(failed, item.Class.Profile.SchedulerName, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.state.Pod(pod.UID); p != nil && p.Assumed {
		s.state.DeletePod(pod.UID)
	}
	// A pod that is gone leaves the queue with its deletion event; until then another try does no harm.
	s.queue.Retry(item, s.clock.Now())
	s.status.unschedulable(pod, v1.PodReasonSchedulerError, err.Error(), "")
	s.wakeLoop()
}

// prepare does what must stand before the binding: volumes and device claims.
func (s *Scheduler) prepare(context.Context, *queue.Item, string) error { return nil }
