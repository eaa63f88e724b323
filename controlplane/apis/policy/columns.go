// SPDX-License-Identifier: Apache-2.0

package policy

import (
	v1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func columns() []resource.Column[*v1.PodDisruptionBudget] {
	amount := func(n *intstr.IntOrString) string {
		if n == nil {
			return "N/A"
		}
		return n.String()
	}
	return column.Standard(
		column.Text("Min Available", "Pods that must stay available.", func(b *v1.PodDisruptionBudget) string { return amount(b.Spec.MinAvailable) }),
		column.Text("Max Unavailable", "Pods that may be unavailable.", func(b *v1.PodDisruptionBudget) string { return amount(b.Spec.MaxUnavailable) }),
		column.Int("Allowed Disruptions", "Pods that may be disrupted now.", func(b *v1.PodDisruptionBudget) int32 { return b.Status.DisruptionsAllowed }),
	)
}
