// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// current makes sure that the current template has its set.
func (r *rollout) current(ctx context.Context) error {
	if r.new != nil {
		return r.refreshNew(ctx)
	}
	return r.createNew(ctx)
}

// rolling takes one step of a rolling update: the new set up as far as maxSurge allows, else old sets down as far as maxUnavailable allows.
func (r *rollout) rolling(ctx context.Context) error {
	if err := r.current(ctx); err != nil {
		return err
	}
	scaled, err := r.scale(ctx, r.new, r.newSize())
	if err != nil {
		return err
	}
	if !scaled {
		if scaled, err = r.shrinkOld(ctx); err != nil {
			return err
		}
	}
	if !scaled && complete(r.d, &r.d.Status) {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.rolloutStatus(ctx)
}

func (r *rollout) newSize() int32 {
	if have, want := *r.new.Spec.Replicas, *r.d.Spec.Replicas; have >= want {
		return want
	}
	return newReplicas(r.d, r.sets, r.new)
}

// newReplicas is how far rs, the current template's set, may be scaled up now.
func newReplicas(d *appsv1.Deployment, all []*appsv1.ReplicaSet, rs *appsv1.ReplicaSet) int32 {
	want, have := *d.Spec.Replicas, *rs.Spec.Replicas
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return want
	}
	room := want + maxSurge(d)
	for _, other := range all {
		if other.UID != rs.UID && !observed(other) {
			return have // how many pods it has is not known
		}
		// A set that was scaled down has its pods until it reports that it has not.
		room -= max(*other.Spec.Replicas, other.Status.Replicas)
	}
	if room <= 0 {
		return have
	}
	return have + min(room, want-have)
}

// shrinkOld scales old sets down: first replicas that are not available anyway, then available ones down to the minimum. It reports whether it did.
func (r *rollout) shrinkOld(ctx context.Context) (bool, error) {
	if specReplicas(r.old) == 0 {
		return false, nil
	}
	for _, rs := range r.sets {
		if !observed(rs) {
			return false, nil // what it reports as available may be what it had before it was scaled away and back
		}
	}
	minimum := *r.d.Spec.Replicas - maxUnavailable(r.d)
	newUnavailable := *r.new.Spec.Replicas - available(r.new)
	// Specs count here, not statuses: what an earlier sync scaled down may still be reported as available.
	budget := specReplicas(r.sets) - minimum - newUnavailable
	if budget <= 0 {
		return false, nil
	}
	did := false
	for i := range r.old {
		rs := r.old[i]
		if n := min(budget, *rs.Spec.Replicas-available(rs)); n > 0 {
			scaled, err := r.scale(ctx, rs, *rs.Spec.Replicas-n)
			if err != nil {
				return did, err
			}
			did, budget = did || scaled, budget-n
		}
	}
	var up int32
	for _, rs := range r.sets {
		up += available(rs)
	}
	budget = min(budget, up-minimum)
	for i := range r.old {
		rs := r.old[i]
		if n := min(budget, *rs.Spec.Replicas); n > 0 {
			scaled, err := r.scale(ctx, rs, *rs.Spec.Replicas-n)
			if err != nil {
				return did, err
			}
			did, budget = did || scaled, budget-n
		}
	}
	return did, nil
}

// recreate ends all old pods before it starts new ones.
func (r *rollout) recreate(ctx context.Context) error {
	if r.new != nil {
		if err := r.refreshNew(ctx); err != nil {
			return err
		}
	}
	did := false
	for i := range r.old {
		scaled, err := r.scale(ctx, r.old[i], 0)
		if err != nil {
			return err
		}
		did = did || scaled
	}
	if did || r.oldPodsRun() {
		return r.rolloutStatus(ctx)
	}
	if r.new == nil {
		if err := r.createNew(ctx); err != nil {
			return err
		}
	}
	if _, err := r.scale(ctx, r.new, *r.d.Spec.Replicas); err != nil {
		return err
	}
	if complete(r.d, &r.d.Status) {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.rolloutStatus(ctx)
}

// oldPodsRun reports whether a pod of an old template has not ended: being deleted is not ended.
func (r *rollout) oldPodsRun() bool {
	for _, rs := range r.old {
		for _, pod := range r.podsOf.Of(rs) {
			if !controller.Finished(pod) {
				return true
			}
		}
	}
	return false
}

// scale sets the size of rs, with an event, and reports whether it differed.
func (r *rollout) scale(ctx context.Context, rs *appsv1.ReplicaSet, size int32) (bool, error) {
	if *rs.Spec.Replicas == size {
		return false, nil
	}
	return true, r.resize(ctx, rs, size)
}

// resize writes size and the sizes annotations if they differ.
func (r *rollout) resize(ctx context.Context, rs *appsv1.ReplicaSet, size int32) error {
	was := *rs.Spec.Replicas
	rs = rs.DeepCopy()
	*rs.Spec.Replicas = size
	if noted := noteSizes(r.d, rs); !noted && was == size {
		return nil
	}
	updated, err := r.c.Client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	r.replace(updated)
	if was != size {
		direction := "up"
		if size < was {
			direction = "down"
		}
		r.c.Events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, rs.Name, was, size)
	}
	return nil
}

// limits resolves maxSurge (rounded up) and maxUnavailable (rounded down). Validation forbids both to be 0, but percentages may round to it: then one pod may be missing.
func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	replicas := int(*d.Spec.Replicas)
	resolve := func(v *intstr.IntOrString, up bool) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), replicas, up)
		if err != nil {
			return 0 // validation lets only numbers and percentages pass
		}
		return int32(n)
	}
	surge = resolve(d.Spec.Strategy.RollingUpdate.MaxSurge, true)
	unavailable = resolve(d.Spec.Strategy.RollingUpdate.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, *d.Spec.Replicas)
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := limits(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := limits(d)
	return unavailable
}

func specReplicas(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

// observed reports whether rs's status speaks of its present spec. Package replicaset acknowledges a spec only once it has seen all pods it asked for earlier.
func observed(rs *appsv1.ReplicaSet) bool { return rs.Status.ObservedGeneration >= rs.Generation }

// available is how many of rs's declared replicas are available: the status may still count some that were scaled away.
func available(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}
