// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"

	v1 "k8s.io/api/policy/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateBudget(_ context.Context, b *v1.PodDisruptionBudget) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &b.Spec
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		r.Invalid(path, s, "minAvailable and maxUnavailable cannot be both set")
	}
	for _, n := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if n.value != nil {
			r.Amount(path.Child(n.name), *n.value)
			r.AtMostAll(path.Child(n.name), *n.value)
		}
	}
	r.Selector(path.Child("selector"), s.Selector)
	rule.OneOfOptional(r, path.Child("unhealthyPodEvictionPolicy"), s.UnhealthyPodEvictionPolicy, v1.IfHealthyBudget, v1.AlwaysAllow)
	return r.Errors()
}

func validateBudgetStatus(_ context.Context, b, _ *v1.PodDisruptionBudget) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &b.Status
	r.Add(metavalidation.ValidateConditions(st.Conditions, path.Child("conditions"))...)
	for _, n := range []rule.Count{{Name: "disruptionsAllowed", N: st.DisruptionsAllowed}, {Name: "currentHealthy", N: st.CurrentHealthy},
		{Name: "desiredHealthy", N: st.DesiredHealthy}, {Name: "expectedPods", N: st.ExpectedPods}} {
		r.NotNegative(path.Child(n.Name), int64(n.N))
	}
	return r.Errors()
}
