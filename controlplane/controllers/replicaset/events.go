// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// podChanged lowers expectations and asks for a sync of every owner that a pod event concerns: the old and the new one, or all that may adopt an orphan.
func (l *loop) podChanged(oldObj, newObj any) {
	pod, ok := controller.Object[*corev1.Pod](newObj)
	if !ok {
		return
	}
	old, _ := controller.Object[*corev1.Pod](oldObj)
	owner := l.ownerOf(pod)
	if old != nil && old != pod {
		if was := l.ownerOf(old); was != "" && was != owner {
			l.queue.Add(was)
		}
	}
	deleted := old == pod || pod.DeletionTimestamp != nil
	switch {
	case owner != "":
		if deleted {
			l.expect.Deleted(owner, pod.UID)
		}
		if old == nil {
			l.expect.Created(owner)
		}
		if old == nil || deleted || counts(old, pod) {
			l.queue.Add(owner)
		}
	case metav1.GetControllerOfNoCopy(pod) == nil && !deleted:
		if old == nil || !labels.Equals(old.Labels, pod.Labels) || metav1.GetControllerOfNoCopy(old) != nil {
			l.wakeAdopters(pod)
		}
	}
}

// counts reports whether what a sync counts, adopts or releases by may differ between two versions of a pod. Most updates of a pod are none of it: the binding
// to a node, addresses, the states of containers before all are ready.
func counts(old, pod *corev1.Pod) bool {
	was, is := controller.PodCondition(old, corev1.PodReady), controller.PodCondition(pod, corev1.PodReady)
	return old.ResourceVersion == pod.ResourceVersion || // a resync
		old.UID != pod.UID || old.Status.Phase != pod.Status.Phase || !equality.Semantic.DeepEqual(was, is) ||
		!labels.Equals(old.Labels, pod.Labels) || !equality.Semantic.DeepEqual(old.OwnerReferences, pod.OwnerReferences)
}

// ownerOf is the key of the owner of our kind that controls pod, "" when there is none.
func (l *loop) ownerOf(pod *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != l.kind.GVK.Kind || ref.APIVersion != l.kind.GVK.GroupVersion().String() {
		return ""
	}
	key := pod.Namespace + "/" + ref.Name
	obj, exists, err := l.kind.Informer.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return ""
	}
	if rs, ok := l.kind.From(obj); !ok || rs.UID != ref.UID {
		return ""
	}
	return key
}

func (l *loop) wakeAdopters(pod *corev1.Pod) {
	objs, err := l.kind.Informer.GetIndexer().ByIndex("namespace", pod.Namespace)
	if err != nil {
		return
	}
	for _, obj := range objs {
		rs, ok := l.kind.From(obj)
		if !ok {
			continue
		}
		if s, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) {
			l.queue.Enqueue(rs)
		}
	}
}

// siblingPods counts, per node, the active pods of all sets that share rs's controller: a scale-down prefers nodes where many of them run.
func (l *loop) siblingPods(rs *appsv1.ReplicaSet) map[string]int {
	count := map[string]int{}
	sets := []metav1.Object{rs}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		sets = l.siblings.Of(&metav1.ObjectMeta{UID: ref.UID})
	}
	for _, set := range sets {
		for _, pod := range l.podsOf.Of(set) {
			if controller.Active(pod) {
				count[pod.Spec.NodeName]++
			}
		}
	}
	return count
}
