// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
	"github.com/fairlead/fairlead/controlplane/scheduler/queue"
)

// registration is one handler at one informer.
type registration struct {
	cache.ResourceEventHandlerRegistration
	informer cache.SharedIndexInformer
}

// watch registers the handlers that keep state and queue in step. The registrations say whether they have seen the initial lists.
func (s *Scheduler) watch(factory informers.SharedInformerFactory, pods cache.SharedIndexInformer) ([]registration, error) {
	var registrations []registration
	add := func(informer cache.SharedIndexInformer, h cache.ResourceEventHandler) error {
		reg, err := informer.AddEventHandler(h)
		if err != nil {
			return fmt.Errorf("scheduler: watch: %w", err)
		}
		registrations = append(registrations, registration{reg, informer})
		return nil
	}
	core, apps, storage := factory.Core().V1(), factory.Apps().V1(), factory.Storage().V1()
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		// Nodes before pods only saves work: a pod of an unknown node waits on a node without an object.
		{core.Nodes().Informer(), on(s, s.setNode, s.deleteNode)},
		{core.Namespaces().Informer(), on(s, s.setNamespace, s.deleteNamespace)},
		{core.Services().Informer(), on(s, func(_, svc *v1.Service) { s.owner.setService(svc) }, s.owner.deleteService)},
		{core.ReplicationControllers().Informer(), on(s, func(_, o *v1.ReplicationController) {
			s.owner.setController("ReplicationController", &o.ObjectMeta, &metav1.LabelSelector{MatchLabels: o.Spec.Selector})
		}, func(o *v1.ReplicationController) { s.owner.deleteController("ReplicationController", &o.ObjectMeta) })},
		{apps.ReplicaSets().Informer(), on(s, func(_, o *appsv1.ReplicaSet) { s.owner.setController("ReplicaSet", &o.ObjectMeta, o.Spec.Selector) },
			func(o *appsv1.ReplicaSet) { s.owner.deleteController("ReplicaSet", &o.ObjectMeta) })},
		{apps.StatefulSets().Informer(), on(s, func(_, o *appsv1.StatefulSet) { s.owner.setController("StatefulSet", &o.ObjectMeta, o.Spec.Selector) },
			func(o *appsv1.StatefulSet) { s.owner.deleteController("StatefulSet", &o.ObjectMeta) })},
		{factory.Policy().V1().PodDisruptionBudgets().Informer(), on(s, s.setBudget, s.deleteBudget)},
		{core.PersistentVolumeClaims().Informer(), on(s, s.setClaim, s.state.Storage.DeleteClaim)},
		{core.PersistentVolumes().Informer(), on(s, func(_, pv *v1.PersistentVolume) { s.storage(func() { s.state.Storage.SetVolume(pv) }) }, s.state.Storage.DeleteVolume)},
		{storage.StorageClasses().Informer(), on(s, func(_, o *storagev1.StorageClass) { s.storage(func() { s.state.Storage.SetClass(o.Name, o) }) },
			func(o *storagev1.StorageClass) { s.state.Storage.SetClass(o.Name, nil) })},
		{storage.CSIDrivers().Informer(), on(s, func(_, o *storagev1.CSIDriver) { s.storage(func() { s.state.Storage.SetDriver(o.Name, o) }) },
			func(o *storagev1.CSIDriver) { s.storage(func() { s.state.Storage.SetDriver(o.Name, nil) }) })},
		{storage.CSIStorageCapacities().Informer(), on(s,
			func(_, o *storagev1.CSIStorageCapacity) {
				s.storage(func() { s.state.Storage.SetCapacity(o.Namespace+"/"+o.Name, o) })
			},
			func(o *storagev1.CSIStorageCapacity) { s.state.Storage.SetCapacity(o.Namespace+"/"+o.Name, nil) })},
		{storage.CSINodes().Informer(), on(s, func(_, o *storagev1.CSINode) { s.setCSINode(o.Name, o) }, func(o *storagev1.CSINode) { s.setCSINode(o.Name, nil) })},
		{pods, on(s, s.setPod, s.deletePod)},
	} {
		if err := add(w.informer, w.handler); err != nil {
			return nil, err
		}
	}
	if !s.hasDevices() {
		return registrations, nil
	}
	devices, d := factory.Resource().V1(), s.eval.Devices
	err := errors.Join(
		add(devices.ResourceClaims().Informer(), on(s, func(_, o *resourcev1.ResourceClaim) { s.devices(func() { d.SetClaim(o) }) },
			func(o *resourcev1.ResourceClaim) { s.devices(func() { d.DeleteClaim(o) }) })),
		add(devices.ResourceSlices().Informer(), on(s, func(_, o *resourcev1.ResourceSlice) { s.devices(func() { d.SetSlice(o) }) }, d.DeleteSlice)),
		add(devices.DeviceClasses().Informer(), on(s, func(_, o *resourcev1.DeviceClass) { s.devices(func() { d.SetClass(o) }) }, d.DeleteClass)),
	)
	return registrations, err
}

// on makes a handler that calls set and remove under the lock. set gets nil as old for an object that is new.
func on[T any](s *Scheduler, set func(old, obj T), remove func(obj T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			var none T
			s.locked(func() { set(none, obj.(T)) })
		},
		UpdateFunc: func(old, obj any) { s.locked(func() { set(old.(T), obj.(T)) }) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if typed, ok := obj.(T); ok {
				s.locked(func() { remove(typed) })
			}
		},
	}
}

func (s *Scheduler) locked(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	s.wakeLoop()
}

func (s *Scheduler) setNode(_, node *v1.Node) {
	before := s.state.Seq()
	n := s.state.SetNode(node)
	if s.state.Seq() != before {
		s.nodeChanged(n)
	}
}

func (s *Scheduler) deleteNode(node *v1.Node) {
	s.state.DeleteNode(node.Name)
	s.wake(placement.PluginSet(0).With(placement.PodTopologySpread)) // fewer domains may lower what is asked of the others
}

func (s *Scheduler) setNamespace(_, ns *v1.Namespace) {
	labels := ns.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	before := s.state.Epoch()
	s.state.SetNamespace(ns.Name, labels)
	if s.state.Epoch() != before {
		s.wake(placement.PluginSet(0).With(placement.InterPodAffinity))
	}
}

func (s *Scheduler) deleteNamespace(ns *v1.Namespace) { s.state.SetNamespace(ns.Name, nil) }

func (s *Scheduler) setPod(old, pod *v1.Pod) {
	if pod.Spec.NodeName != "" || cluster.Done(pod) {
		s.queue.Remove(pod.UID)
		s.state.Denominate(pod.UID)
		before := s.state.Pod(pod.UID)
		known := before != nil && !before.Assumed
		seq := s.state.Seq()
		s.state.SetPod(pod)
		if s.state.Seq() == seq && known {
			return // nothing that concerns others
		}
		if cluster.Done(pod) {
			if known {
				s.podLeft(pod)
			}
		} else {
			s.podPlaced(pod)
		}
		return
	}
	profile := s.profiles[pod.Spec.SchedulerName]
	item := s.queue.Get(pod.UID)
	if profile == nil || pod.DeletionTimestamp != nil {
		if item == nil {
			return
		}
		item.Pod = pod // a pod in flight is dropped when it comes back
		if item.Place() != queue.InFlight {
			s.queue.Remove(pod.UID)
			s.state.Denominate(pod.UID)
		}
		return
	}
	if item == nil {
		if p := s.state.Pod(pod.UID); p != nil && !p.Assumed {
			return // an old version of a pod that is bound already
		}
		request := s.eval.Classify(pod, profile)
		if pod.Status.NominatedNodeName != "" {
			s.state.Nominate(pod, pod.Status.NominatedNodeName, request.Class.Shape)
		}
		s.queue.Add(request, s.deadline(pod), s.clock.Now())
		return
	}
	if old != nil && samePlacement(old, pod) {
		request := item.Request
		request.Pod = pod
		s.queue.Update(item, request, s.clock.Now())
		return
	}
	s.queue.Update(item, s.eval.Classify(pod, profile), s.clock.Now())
}

// samePlacement reports whether an update certainly left alone everything that placement reads: it was one of status.
func samePlacement(old, pod *v1.Pod) bool {
	return old.Generation == pod.Generation && old.Generation != 0 && mapsEqual(old.Labels, pod.Labels) && mapsEqual(old.Annotations, pod.Annotations) &&
		len(old.Spec.SchedulingGates) == len(pod.Spec.SchedulingGates) &&
		resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses)
}

func (s *Scheduler) deletePod(pod *v1.Pod) {
	s.queue.Remove(pod.UID)
	s.state.Denominate(pod.UID)
	if p := s.state.Pod(pod.UID); p != nil {
		s.state.DeletePod(pod.UID)
		s.podLeftNode(p.Node, p.Object)
	}
}
