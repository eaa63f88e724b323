// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

// The hints: which event can make which rejected pod schedulable. A pod is only woken by an event that one of its rejectors cares about, and where
// the question is what one node says now, the node is asked instead of guessing.

// beyondNode are the plugins whose verdict on one node depends on others.
var beyondNode = placement.PluginSet(0).With(placement.PodTopologySpread).With(placement.InterPodAffinity)

// wake wakes the pods that one of the plugins refused.
func (s *Scheduler) wake(plugins placement.PluginSet) {
	s.queue.Wake(s.clock.Now(), func(_ *placement.Class, rejected placement.PluginSet) bool { return rejected&plugins != 0 })
}

// nodeChanged: the node is new, or its labels, taints or capacity changed.
func (s *Scheduler) nodeChanged(n *cluster.Node) {
	s.queue.Wake(s.clock.Now(), func(c *placement.Class, rejected placement.PluginSet) bool {
		return rejected&beyondNode != 0 || s.eval.Local(c, n)
	})
}

// podPlaced: a pod stands on a node that did not, or its labels changed. It can only help pods that want to be near it, or whose spread it evens out.
func (s *Scheduler) podPlaced(pod *v1.Pod) {
	s.queue.Wake(s.clock.Now(), func(c *placement.Class, rejected placement.PluginSet) bool {
		return rejected&beyondNode != 0 && s.eval.Attracts(c, pod)
	})
}

func (s *Scheduler) podLeft(pod *v1.Pod) { s.podLeftNode(s.state.Node(pod.Spec.NodeName), pod) }

// podLeftNode: a pod has ended or was deleted, and gave back what it took.
func (s *Scheduler) podLeftNode(n *cluster.Node, pod *v1.Pod) {
	if n != nil {
		for _, p := range n.Nominated {
			s.queue.Hurry(p.Object.UID)
		}
	}
	s.queue.Wake(s.clock.Now(), func(c *placement.Class, rejected placement.PluginSet) bool {
		return rejected&beyondNode != 0 && s.eval.Repels(c, pod) || n != nil && n.Object != nil && s.eval.Local(c, n)
	})
}

// volumePlugins are the plugins that look at claims and volumes.
var volumePlugins = placement.PluginSet(0).With(placement.VolumeBinding).With(placement.VolumeZone).With(placement.VolumeRestrictions).
	With(placement.NodeVolumeLimits)

// storage changes a storage object and wakes the pods that wait for their volumes.
func (s *Scheduler) storage(change func()) {
	change()
	s.wake(volumePlugins)
}

// devices changes a device object and wakes the pods that wait for devices.
func (s *Scheduler) devices(change func()) {
	change()
	s.wake(placement.PluginSet(0).With(placement.DynamicResources))
}
