// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// The annotations through which kubectl rollout and this controller's later self know what happened.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"

	maxHistoryLength = 2000 // bytes of the revision-history annotation
)

// notCopied are the annotations of a Deployment that its ReplicaSets do not inherit.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true, revisionAnnotation: true, historyAnnotation: true, desiredAnnotation: true, maxAnnotation: true,
	appsv1.DeprecatedRollbackTo: true,
}

// rollout is one sync of one Deployment. d is a copy that may be written to; sets belong to the cache until they were replaced by what a write returned.
type rollout struct {
	*loop
	key  string
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet // all of them
	new  *appsv1.ReplicaSet   // the one with the Deployment's template, nil when there is none yet
	old  []*appsv1.ReplicaSet // the others, oldest first
}

// split finds the set of the current template: the oldest that matches, so that the choice is stable.
func (r *rollout) split() {
	slices.SortFunc(r.sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	r.new, r.old = nil, nil
	for _, rs := range r.sets {
		if r.new == nil && controller.SameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
			r.new = rs
		} else {
			r.old = append(r.old, rs)
		}
	}
}

// replace puts rs in the place of the set with its UID.
func (r *rollout) replace(rs *appsv1.ReplicaSet) {
	r.writes.Wrote(r.key, rs)
	for _, list := range [][]*appsv1.ReplicaSet{r.sets, r.old} {
		for i := range list {
			if list[i].UID == rs.UID {
				list[i] = rs
			}
		}
	}
	if r.new != nil && r.new.UID == rs.UID {
		r.new = rs
	}
}

// nextRevision is the revision number that the current template gets: one above all others.
func (r *rollout) nextRevision() int64 {
	var highest int64
	for _, rs := range r.old {
		highest = max(highest, revision(rs))
	}
	return highest + 1
}

func revision(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// refreshNew brings the annotations and minReadySeconds of the current template's set up to date, and copies its revision to the Deployment. A set that
// becomes current again (a rollback) gets a new revision number and remembers the old one.
func (r *rollout) refreshNew(ctx context.Context) error {
	rs := r.new.DeepCopy()
	changed := annotate(r.d, rs, r.nextRevision(), true)
	if rs.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
		rs.Spec.MinReadySeconds, changed = r.d.Spec.MinReadySeconds, true
	}
	if changed {
		updated, err := r.c.Client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		r.replace(updated)
	}
	if err := r.setRevision(ctx, r.new.Annotations[revisionAnnotation]); err != nil {
		return err
	}
	if hasDeadline(r.d) && condition(&r.d.Status, appsv1.DeploymentProgressing) == nil {
		return r.progressing(ctx, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", r.new.Name))
	}
	return nil
}

// createNew creates the set of the current template, already scaled as far as the strategy allows. Its name is derived from the template, so that a controller that
// crashed after the creation finds it instead of making a second one; a foreign set of that name counts as a hash collision, and the next name is tried.
func (r *rollout) createNew(ctx context.Context) error {
	template := r.d.Spec.Template.DeepCopy()
	hash := controller.Hash(&r.d.Spec.Template, r.d.Status.CollisionCount)
	template.Labels = withLabel(template.Labels, hash)
	selector := r.d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.d.Name + "-" + hash, Namespace: r.d.Namespace, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, gvk)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](0), MinReadySeconds: r.d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	*rs.Spec.Replicas = newReplicas(r.d, r.sets, rs)
	rev := r.nextRevision()
	annotate(r.d, rs, rev, false)

	created, err := r.c.Client.AppsV1().ReplicaSets(rs.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	existed := apierrors.IsAlreadyExists(err)
	if existed {
		created, err = r.collide(ctx, rs)
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), existed && err != nil:
		return err
	case err != nil:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		r.c.Events.Event(r.d, corev1.EventTypeWarning, "ReplicaSetCreateError", message)
		if hasDeadline(r.d) {
			if e := r.progressing(ctx, corev1.ConditionFalse, "ReplicaSetCreateError", message); e != nil {
				return e
			}
		}
		return fmt.Errorf("create replica set %s: %w", rs.Name, err)
	}
	if !existed && *created.Spec.Replicas > 0 {
		r.c.Events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, *created.Spec.Replicas)
	}
	r.writes.Wrote(r.key, created)
	r.new, r.sets = created, append(r.sets, created)
	if err := r.setRevision(ctx, strconv.FormatInt(rev, 10)); err != nil {
		return err
	}
	if !existed && hasDeadline(r.d) {
		return r.progressing(ctx, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", created.Name))
	}
	return nil
}

// collide looks at the set that has the name which rs should get. It is either ours, created by an earlier sync, or the collision count goes up.
func (r *rollout) collide(ctx context.Context, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	stored, err := r.c.Client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if metav1.IsControlledBy(stored, r.d) && controller.SameTemplate(&stored.Spec.Template, &rs.Spec.Template) {
		return stored, nil
	}
	r.d.Status.CollisionCount = ptr.To(ptr.Deref(r.d.Status.CollisionCount, 0) + 1)
	if _, err := r.c.Client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, r.d, metav1.UpdateOptions{}); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the name %s is taken by another replica set; the next sync takes another name", rs.Name)
}

// setRevision copies the current revision to the Deployment's annotation.
func (r *rollout) setRevision(ctx context.Context, rev string) error {
	if r.d.Annotations[revisionAnnotation] == rev || rev == "" {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": r.d.UID, "annotations": map[string]string{revisionAnnotation: rev}}})
	if err != nil {
		return err
	}
	// Through the status subresource: a changed annotation of the main one would be a new generation, as if the user had asked for something.
	d, err := r.c.Client.AppsV1().Deployments(r.d.Namespace).Patch(ctx, r.d.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	if d.Generation != r.d.Generation {
		return fmt.Errorf("deployment %s changed during its sync", r.key)
	}
	r.d = d
	return nil
}

// annotate gives rs the Deployment's annotations and revision rev unless it has a higher one, and reports whether anything changed.
func annotate(d *appsv1.Deployment, rs *appsv1.ReplicaSet, rev int64, exists bool) bool {
	before := maps.Clone(rs.Annotations)
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !notCopied[k] {
			rs.Annotations[k] = v
		}
	}
	if had := revision(rs); had < rev {
		if had > 0 {
			rs.Annotations[historyAnnotation] = appendHistory(rs.Annotations[historyAnnotation], rs.Annotations[revisionAnnotation])
		}
		rs.Annotations[revisionAnnotation] = strconv.FormatInt(rev, 10)
	}
	if !exists {
		noteSizes(d, rs)
	}
	return !maps.Equal(before, rs.Annotations)
}

// appendHistory adds rev to a comma-separated history and drops the oldest entries that do not fit.
func appendHistory(history, rev string) string {
	if history == "" {
		return rev
	}
	history += "," + rev
	for len(history) > maxHistoryLength {
		_, rest, ok := strings.Cut(history, ",")
		if !ok {
			break
		}
		history = rest
	}
	return history
}

// noteSizes records the size of the Deployment that rs was scaled for, from which the next sync recognises a scaling, and reports a change.
func noteSizes(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	desired, most := strconv.Itoa(int(*d.Spec.Replicas)), strconv.Itoa(int(*d.Spec.Replicas+maxSurge(d)))
	if rs.Annotations[desiredAnnotation] == desired && rs.Annotations[maxAnnotation] == most {
		return false
	}
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[desiredAnnotation], rs.Annotations[maxAnnotation] = desired, most
	return true
}

func withLabel(in map[string]string, hash string) map[string]string {
	out := maps.Clone(in)
	if out == nil {
		out = map[string]string{}
	}
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

// cleanup deletes the oldest sets that hold nothing, beyond the history limit.
func (r *rollout) cleanup(ctx context.Context) error {
	if r.d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	kept := controller.Filter(r.old, func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp == nil })
	surplus := len(kept) - int(*r.d.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return nil
	}
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revision(a), revision(b)) })
	for _, rs := range kept[:surplus] {
		if rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		err := r.c.Client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &rs.UID}})
		if err := controller.IgnoreNotFound(err); err != nil {
			return err
		}
	}
	return nil
}
