// SPDX-License-Identifier: Apache-2.0

package storagemigration

import (
	"context"

	v1 "k8s.io/api/storagemigration/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateMigration(_ context.Context, m *v1.StorageVersionMigration) field.ErrorList {
	r := &rule.Report{}
	at := field.NewPath("spec", "resource")
	r.Name(at.Child("resource"), m.Spec.Resource.Resource, validation.IsDNS1035Label)
	r.Optional(at.Child("group"), m.Spec.Resource.Group, validation.IsDNS1123Subdomain)
	return r.Errors()
}

func validateMigrationUpdate(_ context.Context, m, old *v1.StorageVersionMigration) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec"), m.Spec, old.Spec)
	return r.Errors()
}

// validateMigrationStatus: a migration ends once, well or not.
func validateMigrationStatus(_ context.Context, m, old *v1.StorageVersionMigration) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("status")
	r.Add(metavalidation.ValidateConditions(m.Status.Conditions, path.Child("conditions"))...)
	is := func(m *v1.StorageVersionMigration, kind v1.MigrationConditionType) bool {
		for _, c := range m.Status.Conditions {
			if c.Type == string(kind) {
				return c.Status == "True"
			}
		}
		return false
	}
	done, failed := is(m, v1.MigrationSucceeded), is(m, v1.MigrationFailed)
	if done && failed {
		r.Invalid(path.Child("conditions"), m.Status.Conditions, "Both success and failed conditions cannot be true at the same time")
	}
	if is(old, v1.MigrationSucceeded) && !done {
		r.Invalid(path.Child("conditions"), m.Status.Conditions, "Success condition cannot be set to false once it is true")
	}
	if is(old, v1.MigrationFailed) && !failed {
		r.Invalid(path.Child("conditions"), m.Status.Conditions, "Failed condition cannot be set to false once it is true")
	}
	if (done || failed) && is(m, v1.MigrationRunning) {
		r.Invalid(path.Child("conditions"), m.Status.Conditions, "Running condition cannot be true when success or failed condition is true")
	}
	if old.Status.ResourceVersion != "" {
		r.Same(path.Child("resourceVersion"), m.Status.ResourceVersion, old.Status.ResourceVersion)
	}
	return r.Errors()
}
