// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

// runCore times the decisions alone: queue, placement and the bookkeeping of the result, as the scheduler's loop does them, with no API server.
func runCore(w workload, nodes, pods int) (result, error) {
	state := cluster.New()
	eval := placement.New(state)
	if w.selector {
		eval.Defaults = func(pod *v1.Pod) labels.Selector { return labels.SelectorFromSet(pod.Labels) }
	}
	profile := placement.DefaultProfile()
	q := queue.New(queue.DefaultOptions)
	for i := range nodes {
		state.SetNode(w.node(i))
	}
	for i := range w.existing(nodes) {
		p := w.filler(i, nodes)
		state.SetPod(p)
	}
	waiting := make([]*v1.Pod, pods)
	for i := range waiting {
		waiting[i] = w.pod(i, nodes)
	}
	r := result{latency: make([]time.Duration, 0, pods)}
	begin := time.Now()
	for _, p := range waiting {
		q.Add(eval.Classify(p, profile), time.Time{}, begin)
	}
	r.queued = time.Since(begin)
	begin, used := time.Now(), cpuTime()
	err := profiled(func() error {
		for {
			start := time.Now()
			item := q.Pop(start)
			if item == nil {
				return nil
			}
			found := eval.Place(item.Request)
			if found.Node == nil {
				way := eval.Preempt(item.Request)
				if way.Node == nil {
					return fmt.Errorf("%s: pod %s: %s preemption: %s", w.name, item.Pod.Name, eval.Message(found.Diagnosis), way.Message)
				}
				for _, victim := range way.Victims {
					state.DeletePod(victim.Object.UID)
					r.victims++
				}
				if found = eval.Place(item.Request); found.Node == nil {
					return fmt.Errorf("%s: pod %s does not fit after preemption", w.name, item.Pod.Name)
				}
			}
			state.Assume(item.Pod, found.Node, item.Class.Shape)
			q.Remove(item.Pod.UID)
			r.latency = append(r.latency, time.Since(start))
			// What the API server's answer does to the state, some time later.
			bound := *item.Pod
			bound.Spec.NodeName = found.Node.Name
			state.SetPod(&bound)
		}
	})
	if err != nil {
		return r, err
	}
	r.took, r.placed, r.cpu = time.Since(begin), len(r.latency), cpuTime()-used
	if len(r.latency) != pods {
		return r, fmt.Errorf("%s: %d of %d pods placed", w.name, len(r.latency), pods)
	}
	return r, nil
}
