// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	"context"
	"strings"

	v1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateLease(_ context.Context, l *v1.Lease) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &l.Spec
	if s.LeaseDurationSeconds != nil {
		r.Positive(path.Child("leaseDurationSeconds"), int64(*s.LeaseDurationSeconds))
	}
	if s.LeaseTransitions != nil {
		r.NotNegative(path.Child("leaseTransitions"), int64(*s.LeaseTransitions))
	}
	if s.Strategy != nil {
		at := path.Child("strategy")
		if name := string(*s.Strategy); strings.Contains(name, "/") {
			if domain, rest, _ := strings.Cut(name, "/"); domain == "" || rest == "" || strings.Contains(rest, "/") {
				r.Invalid(at, name, "must be a strategy of this API or a domain-prefixed path (such as 'acme.io/foo')")
			}
		} else {
			rule.OneOf(r, at, *s.Strategy, v1.OldestEmulationVersion)
		}
	}
	if s.PreferredHolder != nil && *s.PreferredHolder != "" && (s.Strategy == nil || *s.Strategy == "") {
		r.Forbidden(path.Child("preferredHolder"), true, "may only be specified when strategy is defined")
	}
	return r.Errors()
}
