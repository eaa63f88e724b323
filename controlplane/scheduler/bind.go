// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

func klogPod(pod *v1.Pod) klog.ObjectRef { return klog.KObj(pod) }

// plan is what must stand before a pod is bound to a node.
type plan struct {
	volumes []placement.VolumeDecision
	devices *placement.DeviceDecision
}

func (p *plan) empty() bool { return len(p.volumes) == 0 && p.devices == nil }

// reserve decides about volumes and devices of a pod that goes to n, and assumes the decisions.
func (s *Scheduler) reserve(item *queue.Item, n *cluster.Node, devices *placement.DeviceDecision) *plan {
	p := &plan{volumes: s.eval.DecideVolumes(item.Class.Needs, n), devices: devices}
	if devices != nil {
		s.eval.Devices.Assume(devices)
	}
	for _, d := range p.volumes {
		if d.Volume != nil {
			s.state.Storage.AssumeVolume(d.Volume.Name, d.Key)
		} else {
			s.state.Storage.AssumeClaim(d.Key, n.Name)
		}
	}
	return p
}

// release takes back what reserve assumed: it is in the API now, or will never be. Allocated devices stay assumed until the claim's event comes.
func (s *Scheduler) release(p *plan, bound bool) {
	if p.devices != nil && !bound {
		s.eval.Devices.Forget(p.devices)
	}
	for _, d := range p.volumes {
		s.state.Storage.Release(d.Key)
	}
}

// bind makes an assumed pod real, and calls done as soon as it no longer counts as a binding on its way. If it fails, the pod is taken back and tried
// again after its back-off.
func (s *Scheduler) bind(ctx context.Context, item *queue.Item, node string, p *plan, done func()) {
	pod := item.Pod
	var err error
	if !p.empty() {
		done() // provisioning may take minutes; other pods need not wait for it
		done = func() {}
		err = s.prepare(ctx, pod, node, p)
	}
	if err == nil {
		err = s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			Target:     v1.ObjectReference{Kind: "Node", Name: node},
		}, metav1.CreateOptions{})
		if err != nil {
			err = fmt.Errorf("bind to node %s: %w", node, err)
		}
	}
	done()
	if !p.empty() {
		s.locked(func() { s.release(p, err == nil) })
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
	s.locked(func() {
		if p := s.state.Pod(pod.UID); p != nil && p.Assumed {
			s.state.DeletePod(pod.UID)
			s.podLeftNode(p.Node, pod)
		}
		// A pod that is gone leaves the queue with its deletion event; until then another try does no harm.
		s.queue.Retry(item, s.clock.Now())
	})
	s.status.unschedulable(pod, v1.PodReasonSchedulerError, err.Error(), "")
}
