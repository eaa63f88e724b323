// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// Priorities above highestUser are the system's; these are the classes that use them.
const highestUser = 1_000_000_000

var systemClasses = map[string]int32{"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}

func validatePriorityClass(_ context.Context, c *v1.PriorityClass) field.ErrorList {
	r := &rule.Report{}
	value, system := systemClasses[c.Name]
	switch {
	case strings.HasPrefix(c.Name, "system-") && !system:
		r.Forbidden(field.NewPath("metadata", "name"), true, "priority class names with 'system-' prefix are reserved for system use only")
	case system && c.Value != value:
		r.Forbidden(field.NewPath("value"), true, "the value of a system class cannot be changed")
	case system && c.GlobalDefault:
		r.Forbidden(field.NewPath("globalDefault"), true, "a system class cannot be the default")
	case !system && c.Value > highestUser:
		r.Forbidden(field.NewPath("value"), true, "maximum allowed value of a user defined priority is 1000000000")
	}
	rule.OneOfOptional(r, field.NewPath("preemptionPolicy"), c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	return r.Errors()
}

func validatePriorityClassUpdate(_ context.Context, c, old *v1.PriorityClass) field.ErrorList {
	r := &rule.Report{}
	r.Forbidden(field.NewPath("value"), c.Value != old.Value, "may not be changed in an update.")
	r.Same(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy)
	return r.Errors()
}
