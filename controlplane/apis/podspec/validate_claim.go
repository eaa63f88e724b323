// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// AccessModes reports none, unknown ones, and ReadWriteOncePod beside others.
func AccessModes(r *rule.Report, at *field.Path, modes []v1.PersistentVolumeAccessMode) {
	r.Required(at, len(modes) > 0, "at least 1 access mode is required")
	for _, m := range modes {
		if all := []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce, v1.ReadOnlyMany, v1.ReadWriteMany, v1.ReadWriteOncePod}; !slices.Contains(all, m) {
			r.Add(field.NotSupported(at, m, all))
		}
	}
	r.Forbidden(at, len(modes) > 1 && slices.Contains(modes, v1.ReadWriteOncePod), "may not use ReadWriteOncePod with other access modes")
}

// Claim reports what is wrong with a claim's spec, be it a PersistentVolumeClaim's or a template's.
func Claim(r *rule.Report, path *field.Path, s *v1.PersistentVolumeClaimSpec) {
	r.Selector(path.Child("selector"), s.Selector)
	AccessModes(r, path.Child("accessModes"), s.AccessModes)
	at := path.Child("resources").Key(string(v1.ResourceStorage))
	if size, ok := s.Resources.Requests[v1.ResourceStorage]; r.Required(at, ok, "") {
		if size.Sign() <= 0 {
			r.Invalid(at, size.String(), "must be greater than zero")
		}
	}
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		r.Invalid(path.Child("storageClassName"), *s.StorageClassName, subdomain(*s.StorageClassName)...)
	}
	rule.OneOfOptional(r, path.Child("volumeMode"), s.VolumeMode, v1.PersistentVolumeBlock, v1.PersistentVolumeFilesystem)
	if s.VolumeAttributesClassName != nil && *s.VolumeAttributesClassName != "" {
		r.Invalid(path.Child("volumeAttributesClassName"), *s.VolumeAttributesClassName, subdomain(*s.VolumeAttributesClassName)...)
	}
	from, ref := s.DataSource, s.DataSourceRef
	if from != nil {
		claimSource(r, path.Child("dataSource"), from.APIGroup, from.Kind, from.Name)
	}
	if ref == nil {
		return
	}
	at = path.Child("dataSourceRef")
	claimSource(r, at, ref.APIGroup, ref.Kind, ref.Name)
	if ref.Namespace != nil && *ref.Namespace != "" {
		r.Invalid(at.Child("namespace"), *ref.Namespace, validation.IsDNS1123Label(*ref.Namespace)...)
		if from != nil {
			r.Invalid(path.Child("dataSource"), from.Name, "may not be specified when dataSourceRef.namespace is specified")
		}
		return
	}
	if from != nil && (from.Kind != ref.Kind || from.Name != ref.Name || group(from.APIGroup) != group(ref.APIGroup)) {
		r.Invalid(path, "", "must match dataSourceRef if both are specified")
	}
}

func claimSource(r *rule.Report, at *field.Path, apiGroup *string, kind, name string) {
	r.Required(at.Child("name"), name != "", "")
	r.Required(at.Child("kind"), kind != "", "")
	if group(apiGroup) == "" && kind != "" && kind != "PersistentVolumeClaim" {
		r.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
	if g := group(apiGroup); g != "" {
		r.Invalid(at.Child("apiGroup"), g, validation.IsDNS1123Subdomain(g)...)
	}
}

func group(g *string) string {
	if g == nil {
		return ""
	}
	return *g
}
