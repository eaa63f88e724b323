// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// rollback answers the annotation that the rollback subresource of old API versions left behind: the template of that revision (0: the one before) becomes
// the Deployment's, and the annotation goes. kubectl rollout undo does not come here: it patches the template itself.
func (r *rollout) rollback(ctx context.Context) error {
	d := r.d.DeepCopy()
	target, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64)
	delete(d.Annotations, appsv1.DeprecatedRollbackTo)
	if err == nil && target == 0 {
		target = r.previousRevision()
	}
	var to *appsv1.ReplicaSet
	for _, rs := range r.sets {
		if err == nil && target > 0 && revision(rs) == target {
			to = rs
		}
	}
	switch {
	case to == nil:
		r.c.Events.Event(d, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
	case controller.SameTemplate(&to.Spec.Template, &d.Spec.Template):
		r.c.Events.Eventf(d, corev1.EventTypeWarning, "DeploymentRollbackTemplateUnchanged",
			"The rollback revision contains the same template as current deployment %q", d.Name)
	default:
		d.Spec.Template = *to.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		for k, v := range to.Annotations {
			if !notCopied[k] {
				d.Annotations[k] = v
			}
		}
		r.c.Events.Eventf(d, corev1.EventTypeNormal, "DeploymentRollback", "Rolled back deployment %q to revision %d", d.Name, target)
	}
	_, err = r.c.Client.AppsV1().Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{})
	return err
}

// previousRevision is the second highest revision, 0 when there is none.
func (r *rollout) previousRevision() int64 {
	var highest, second int64
	for _, rs := range r.sets {
		if n := revision(rs); n > highest {
			highest, second = n, highest
		} else if n > second {
			second = n
		}
	}
	return second
}
