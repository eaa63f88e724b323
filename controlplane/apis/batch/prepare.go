// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"

	v1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const legacyControllerUID = "controller-uid"

// prepareJob gives the job a selector of its own unless the client insists on one: its pods carry the job's UID, so that no two jobs count each
// other's pods. Labels and selector that a client sent in vain are left for validation to judge.
func prepareJob(_ context.Context, j *v1.Job) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector {
		return
	}
	if j.Spec.Template.Labels == nil {
		j.Spec.Template.Labels = map[string]string{}
	}
	for key, value := range map[string]string{
		v1.ControllerUidLabel: string(j.UID), v1.JobNameLabel: j.Name,
		legacyControllerUID: string(j.UID), "job-name": j.Name,
	} {
		if _, ok := j.Spec.Template.Labels[key]; !ok {
			j.Spec.Template.Labels[key] = value
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[v1.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[v1.ControllerUidLabel] = string(j.UID)
	}
}
