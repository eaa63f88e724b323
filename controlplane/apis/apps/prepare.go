// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"context"
	"maps"
	"strconv"

	v1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// prepareDeploymentUpdate counts changed annotations as a new generation too: the controller copies them to replica sets.
func prepareDeploymentUpdate(_ context.Context, d, old *v1.Deployment) {
	if !maps.Equal(d.Annotations, old.Annotations) {
		d.Generation = old.Generation + 1
	}
}

// prepareDaemonSet and prepareDaemonSetUpdate number the templates, in the annotation that older clients look at.
func prepareDaemonSet(_ context.Context, d *v1.DaemonSet) { setTemplateGeneration(d, 1) }

func prepareDaemonSetUpdate(_ context.Context, d, old *v1.DaemonSet) {
	n, err := strconv.ParseInt(old.Annotations[v1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		n = 1
	}
	if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func setTemplateGeneration(d *v1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[v1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}
