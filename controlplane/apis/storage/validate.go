// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/core"
	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// How much a class can carry for its driver.
const maxParameters, maxParameterBytes = 512, 256 * 1024

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }

func parameters(r *rule.Report, at *field.Path, m map[string]string) {
	if n := len(m); n > maxParameters {
		r.Add(field.TooLong(at, "Provisioner Parameters exceeded max allowed", maxParameters))
	}
	total := 0
	for k, v := range m {
		if k == "" {
			r.Invalid(at, k, "field can not be empty.")
		}
		total += len(k) + len(v)
	}
	if total > maxParameterBytes {
		r.Add(field.TooLong(at, "", maxParameterBytes))
	}
}

func validateStorageClass(_ context.Context, c *v1.StorageClass) field.ErrorList {
	r := &rule.Report{}
	r.Name(field.NewPath("provisioner"), c.Provisioner, func(p string) []string { return validation.IsQualifiedName(strings.ToLower(p)) })
	parameters(r, field.NewPath("parameters"), c.Parameters)
	rule.OneOfOptional(r, field.NewPath("reclaimPolicy"), c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	if at := field.NewPath("volumeBindingMode"); r.Required(at, c.VolumeBindingMode != nil, "") {
		rule.OneOf(r, at, *c.VolumeBindingMode, v1.VolumeBindingImmediate, v1.VolumeBindingWaitForFirstConsumer)
	}
	for i, t := range c.AllowedTopologies {
		seen := map[string]bool{}
		for j, x := range t.MatchLabelExpressions {
			at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j)
			r.Invalid(at.Child("key"), x.Key, validation.IsQualifiedName(x.Key)...)
			if seen[x.Key] {
				r.Add(field.Duplicate(at.Child("key"), x.Key))
			}
			seen[x.Key] = true
			r.Required(at.Child("values"), len(x.Values) > 0, "")
			for k, v := range x.Values {
				r.Invalid(at.Child("values").Index(k), v, validation.IsValidLabelValue(v)...)
				if slices.Contains(x.Values[:k], v) {
					r.Add(field.Duplicate(at.Child("values").Index(k), v))
				}
			}
		}
	}
	return r.Errors()
}

func validateStorageClassUpdate(_ context.Context, c, old *v1.StorageClass) field.ErrorList {
	r := &rule.Report{}
	r.Forbidden(field.NewPath("parameters"), !maps.Equal(c.Parameters, old.Parameters), "updates to parameters are forbidden.")
	r.Forbidden(field.NewPath("provisioner"), c.Provisioner != old.Provisioner, "updates to provisioner are forbidden.")
	r.Forbidden(field.NewPath("reclaimPolicy"), !equal(c.ReclaimPolicy, old.ReclaimPolicy), "updates to reclaimPolicy are forbidden.")
	r.Same(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)
	return r.Errors()
}

func equal[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func validateVolumeAttributesClass(_ context.Context, c *v1.VolumeAttributesClass) field.ErrorList {
	r := &rule.Report{}
	podspec.CSIDriverName(r, field.NewPath("driverName"), c.DriverName)
	if at := field.NewPath("parameters"); r.Required(at, len(c.Parameters) > 0, "must contain at least one key/value pair") {
		parameters(r, at, c.Parameters)
	}
	return r.Errors()
}

func validateVolumeAttributesClassUpdate(_ context.Context, c, old *v1.VolumeAttributesClass) field.ErrorList {
	r := &rule.Report{}
	r.Forbidden(field.NewPath("driverName"), c.DriverName != old.DriverName, "updates to driverName are forbidden.")
	r.Forbidden(field.NewPath("parameters"), !maps.Equal(c.Parameters, old.Parameters), "updates to parameters are forbidden.")
	return r.Errors()
}

func validateVolumeAttachment(_ context.Context, a *v1.VolumeAttachment) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	podspec.CSIDriverName(r, path.Child("attacher"), a.Spec.Attacher)
	r.Name(path.Child("nodeName"), a.Spec.NodeName, subdomain)
	at, src := path.Child("source"), a.Spec.Source
	switch {
	case src.InlineVolumeSpec == nil && src.PersistentVolumeName == nil:
		r.Required(at, false, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case src.InlineVolumeSpec != nil && src.PersistentVolumeName != nil:
		r.Forbidden(at, true, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case src.PersistentVolumeName != nil:
		r.Name(at.Child("persistentVolumeName"), *src.PersistentVolumeName, subdomain)
	default:
		core.ValidatePersistentVolumeSpec(r, at.Child("inlineVolumeSpec"), src.InlineVolumeSpec, true)
	}
	return r.Errors()
}

func validateVolumeAttachmentUpdate(_ context.Context, a, old *v1.VolumeAttachment) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec"), a.Spec, old.Spec)
	return r.Errors()
}

func validateVolumeAttachmentStatus(_ context.Context, a, _ *v1.VolumeAttachment) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &a.Status
	total := 0
	for k, v := range st.AttachmentMetadata {
		total += len(k) + len(v)
	}
	if total > maxParameterBytes {
		r.Add(field.TooLong(path.Child("attachmentMetadata"), "", maxParameterBytes))
	}
	for _, e := range []struct {
		name string
		err  *v1.VolumeError
	}{{"attachError", st.AttachError}, {"detachError", st.DetachError}} {
		if e.err == nil {
			continue
		}
		if len(e.err.Message) > 1024 {
			r.Add(field.TooLong(path.Child(e.name, "message"), e.err.Message, 1024))
		}
		if e.err.ErrorCode != nil {
			r.Between(path.Child(e.name, "errorCode"), int64(*e.err.ErrorCode), 0, 16) // the gRPC codes
		}
	}
	return r.Errors()
}
