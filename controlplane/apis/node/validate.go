// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateRuntimeClass(_ context.Context, c *v1.RuntimeClass) field.ErrorList {
	r := &rule.Report{}
	r.Invalid(field.NewPath("handler"), c.Handler, validation.IsDNS1123Label(c.Handler)...)
	if c.Overhead != nil {
		at := field.NewPath("overhead", "podFixed")
		for _, name := range slices.Sorted(maps.Keys(c.Overhead.PodFixed)) {
			podspec.ResourceName(r, at.Key(string(name)), name, func(n corev1.ResourceName) bool {
				return n == corev1.ResourceCPU || n == corev1.ResourceMemory || n == corev1.ResourceEphemeralStorage ||
					len(n) > len(corev1.ResourceHugePagesPrefix) && n[:len(corev1.ResourceHugePagesPrefix)] == corev1.ResourceHugePagesPrefix
			})
			podspec.Quantity(r, at.Key(string(name)), name, c.Overhead.PodFixed[name])
		}
	}
	s := c.Scheduling
	if s == nil {
		return r.Errors()
	}
	at := field.NewPath("scheduling")
	r.Labels(at.Child("nodeSelector"), s.NodeSelector)
	for i := range s.Tolerations {
		podspec.Toleration(r, at.Child("tolerations").Index(i), &s.Tolerations[i])
		for j := range i {
			if s.Tolerations[i] == s.Tolerations[j] {
				r.Add(field.Duplicate(at.Child("tolerations").Index(i), s.Tolerations[i]))
			}
		}
	}
	return r.Errors()
}

func validateRuntimeClassUpdate(_ context.Context, c, old *v1.RuntimeClass) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("handler"), c.Handler, old.Handler)
	return r.Errors()
}
