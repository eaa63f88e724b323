// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// isScaling reports whether the Deployment's size changed since its active sets were last scaled.
func (r *rollout) isScaling() bool {
	for _, rs := range r.active() {
		if desired, err := strconv.ParseInt(rs.Annotations[desiredAnnotation], 10, 32); err == nil && int32(desired) != *r.d.Spec.Replicas {
			return true
		}
	}
	return false
}

func (r *rollout) active() []*appsv1.ReplicaSet {
	return controller.Filter(r.sets, func(rs *appsv1.ReplicaSet) bool { return *rs.Spec.Replicas > 0 })
}

// scaleOnly follows a changed size without moving replicas from one template to another: what a paused Deployment and one in the middle of a rollout get.
func (r *rollout) scaleOnly(ctx context.Context) error {
	if r.new != nil {
		if err := r.refreshNew(ctx); err != nil {
			return err
		}
	}
	if err := r.resizeAll(ctx); err != nil {
		return err
	}
	if r.d.Spec.Paused && r.d.Annotations[appsv1.DeprecatedRollbackTo] == "" {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.writeStatus(ctx, r.status())
}

func (r *rollout) resizeAll(ctx context.Context) error {
	want := *r.d.Spec.Replicas
	active := r.active()
	switch {
	case len(active) <= 1:
		if only := r.onlySet(active); only != nil && *only.Spec.Replicas != want {
			return r.resize(ctx, only, want)
		} else if only != nil && *only.Spec.Replicas > 0 {
			return r.resize(ctx, only, want) // the sizes annotations alone
		}
		return nil
	case r.saturated():
		for i := range r.old {
			if _, err := r.scale(ctx, r.old[i], 0); err != nil {
				return err
			}
		}
		return r.resize(ctx, r.new, want)
	case r.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		return r.resizeProportionally(ctx, active)
	}
	return nil
}

// onlySet is the one active set, or the one to scale when none is active: the current template's, else the newest.
func (r *rollout) onlySet(active []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch {
	case len(active) == 1:
		return active[0]
	case r.new != nil:
		return r.new
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

// saturated reports whether the current template's set alone serves the Deployment's size.
func (r *rollout) saturated() bool {
	want := *r.d.Spec.Replicas
	return r.new != nil && *r.new.Spec.Replicas == want && r.new.Status.AvailableReplicas == want &&
		r.new.Annotations[desiredAnnotation] == strconv.Itoa(int(want))
}

// resizeProportionally spreads the change over the active sets in proportion to their sizes, so that a rollout that goes wrong does not grow with the
// Deployment: the largest set first, and it gets what rounding left over.
func (r *rollout) resizeProportionally(ctx context.Context, active []*appsv1.ReplicaSet) error {
	var allowed int32
	if *r.d.Spec.Replicas > 0 {
		allowed = *r.d.Spec.Replicas + maxSurge(r.d)
	}
	delta := allowed - specReplicas(active)
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		if delta > 0 {
			age = -age // grow the newer of equals, shrink the older
		}
		return cmp.Or(-cmp.Compare(*a.Spec.Replicas, *b.Spec.Replicas), age, cmp.Compare(a.Name, b.Name))
	})
	sizes := make([]int32, len(active))
	var given int32
	for i, rs := range active {
		part := share(r.d, rs, delta-given, delta)
		sizes[i] = *rs.Spec.Replicas + part
		given += part
	}
	sizes[0] = max(0, sizes[0]+delta-given)
	for i, rs := range active {
		if err := r.resize(ctx, rs, sizes[i]); err != nil {
			return err
		}
	}
	return nil
}

// share is the part of delta that rs takes, of which left is not yet given away. It is measured against the size the whole had when rs was last scaled.
func share(d *appsv1.Deployment, rs *appsv1.ReplicaSet, left, delta int32) int32 {
	if left == 0 || delta == 0 {
		return 0
	}
	size := *rs.Spec.Replicas
	part := -size
	if *d.Spec.Replicas > 0 {
		before, err := strconv.ParseInt(rs.Annotations[maxAnnotation], 10, 32)
		if err != nil || before <= 0 {
			before = int64(d.Status.Replicas)
		}
		if before <= 0 {
			return 0
		}
		part = int32(math.Round(float64(size)*float64(*d.Spec.Replicas+maxSurge(d))/float64(before))) - size
	}
	if delta > 0 {
		return min(part, left)
	}
	return max(part, left)
}
