// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"path"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// mounts reports what is wrong with a container's mounts; devices are the paths and volumes that it has as block devices.
func (s *scope) mounts(r *rule.Report, at *field.Path, list []v1.VolumeMount, c *v1.Container, devices blockDevices) {
	paths := map[string]bool{}
	for i := range list {
		m, at := &list[i], at.Index(i)
		volume := s.volumes[m.Name]
		if r.Required(at.Child("name"), m.Name != "", "") && volume == nil {
			r.Add(field.NotFound(at.Child("name"), m.Name))
		}
		if devices.volumes[m.Name] {
			r.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices")
		}
		if r.Required(at.Child("mountPath"), m.MountPath != "", "") {
			if paths[m.MountPath] {
				r.Invalid(at.Child("mountPath"), m.MountPath, "must be unique")
			}
			if devices.paths[m.MountPath] {
				r.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
			}
			paths[m.MountPath] = true
		}
		for _, sub := range []struct{ name, value string }{{"subPath", m.SubPath}, {"subPathExpr", m.SubPathExpr}} {
			if sub.value != "" {
				localPath(r, at.Child(sub.name), sub.value)
			}
		}
		if m.SubPath != "" && m.SubPathExpr != "" {
			r.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
		}
		propagation(r, at, m, c)
		bindOptions(r, at.Child("bindMountOptions"), m.BindMountOptions)
		if volume != nil && volume.Image != nil {
			r.Forbidden(at.Child("subPathExpr"), m.SubPathExpr != "", "not allowed in image volume sources")
		}
	}
}

func propagation(r *rule.Report, at *field.Path, m *v1.VolumeMount, c *v1.Container) {
	rule.OneOfOptional(r, at.Child("mountPropagation"), m.MountPropagation,
		v1.MountPropagationBidirectional, v1.MountPropagationHostToContainer, v1.MountPropagationNone)
	if p := m.MountPropagation; p != nil && *p == v1.MountPropagationBidirectional {
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		r.Forbidden(at.Child("mountPropagation"), !privileged, "Bidirectional mount propagation is available only to privileged containers")
	}
	rr := m.RecursiveReadOnly
	rule.OneOfOptional(r, at.Child("recursiveReadOnly"), rr, v1.RecursiveReadOnlyDisabled, v1.RecursiveReadOnlyIfPossible, v1.RecursiveReadOnlyEnabled)
	if rr == nil || *rr == v1.RecursiveReadOnlyDisabled {
		return
	}
	r.Forbidden(at.Child("recursiveReadOnly"), !m.ReadOnly, "may only be specified when readOnly is true")
	propagates := m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone
	r.Forbidden(at.Child("recursiveReadOnly"), propagates, "may only be specified when mountPropagation is None or not specified")
}

// bindOptions restrict a mount further; they never loosen it.
func bindOptions(r *rule.Report, at *field.Path, options []string) {
	allowed := []string{"noexec", "nodev", "nosuid"}
	for i, o := range options {
		if !slices.Contains(allowed, o) {
			r.Add(field.NotSupported(at.Index(i), o, allowed))
		}
		if slices.Contains(options[:i], o) {
			r.Add(field.Duplicate(at.Index(i), o))
		}
	}
}

// blockDevices are what a container has as raw devices.
type blockDevices struct{ paths, volumes map[string]bool }

func (s *scope) devices(r *rule.Report, at *field.Path, c *v1.Container) blockDevices {
	seen := blockDevices{map[string]bool{}, map[string]bool{}}
	for i, d := range c.VolumeDevices {
		at := at.Index(i)
		if r.Required(at.Child("name"), d.Name != "", "") {
			v := s.volumes[d.Name]
			switch {
			case v == nil:
				r.Add(field.NotFound(at.Child("name"), d.Name))
			case v.PersistentVolumeClaim == nil && v.Ephemeral == nil:
				r.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
			}
			if seen.volumes[d.Name] {
				r.Invalid(at.Child("name"), d.Name, "must be unique")
			}
			seen.volumes[d.Name] = true
		}
		if r.Required(at.Child("devicePath"), d.DevicePath != "", "") {
			if seen.paths[d.DevicePath] {
				r.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
			}
			noBacksteps(r, at.Child("devicePath"), path.Clean(d.DevicePath))
			seen.paths[d.DevicePath] = true
		}
	}
	return seen
}
