// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"math"
	"slices"

	v1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateCSIDriver(_ context.Context, d *v1.CSIDriver) field.ErrorList {
	r := &rule.Report{}
	podspec.CSIDriverName(r, field.NewPath("metadata", "name"), d.Name)
	path, s := field.NewPath("spec"), &d.Spec
	r.Required(path.Child("attachRequired"), s.AttachRequired != nil, "")
	r.Required(path.Child("podInfoOnMount"), s.PodInfoOnMount != nil, "")
	r.Required(path.Child("storageCapacity"), s.StorageCapacity != nil, "")
	r.Required(path.Child("seLinuxMount"), s.SELinuxMount != nil, "")
	rule.OneOfOptional(r, path.Child("fsGroupPolicy"), s.FSGroupPolicy, v1.ReadWriteOnceWithFSTypeFSGroupPolicy, v1.FileFSGroupPolicy, v1.NoneFSGroupPolicy)
	for i, m := range s.VolumeLifecycleModes {
		rule.OneOf(r, path.Child("volumeLifecycleModes").Index(i), m, v1.VolumeLifecyclePersistent, v1.VolumeLifecycleEphemeral)
	}
	audiences := map[string]bool{}
	for i, t := range s.TokenRequests {
		at := path.Child("tokenRequests").Index(i)
		if audiences[t.Audience] {
			r.Add(field.Duplicate(at.Child("audience"), t.Audience))
		}
		audiences[t.Audience] = true
		if t.ExpirationSeconds != nil {
			r.Between(at.Child("expirationSeconds"), *t.ExpirationSeconds, 600, 1<<32)
		}
	}
	r.Forbidden(path.Child("serviceAccountTokenInSecrets"), s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0,
		"must not be set when tokenRequests is empty")
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil {
		r.Between(path.Child("nodeAllocatableUpdatePeriodSeconds"), *n, 10, math.MaxInt32)
	}
	return r.Errors()
}

func validateCSIDriverUpdate(_ context.Context, d, old *v1.CSIDriver) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	r.Same(path.Child("attachRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired)
	r.Same(path.Child("volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)
	return r.Errors()
}

func validateCSINode(_ context.Context, n *v1.CSINode) field.ErrorList {
	r := &rule.Report{}
	names := map[string]bool{}
	for i, d := range n.Spec.Drivers {
		at := field.NewPath("spec", "drivers").Index(i)
		podspec.CSIDriverName(r, at.Child("name"), d.Name)
		if names[d.Name] {
			r.Add(field.Duplicate(at.Child("name"), d.Name))
		}
		names[d.Name] = true
		r.Required(at.Child("nodeID"), d.NodeID != "", "")
		if len(d.NodeID) > 256 {
			r.Invalid(at.Child("nodeID"), d.NodeID, "must be 256 characters or less")
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			r.NotNegative(at.Child("allocatable", "count"), int64(*d.Allocatable.Count))
		}
		for j, k := range d.TopologyKeys {
			at := at.Child("topologyKeys").Index(j)
			r.Required(at, k != "", "")
			r.Optional(at, k, validation.IsQualifiedName)
			if slices.Contains(d.TopologyKeys[:j], k) {
				r.Add(field.Duplicate(at, k))
			}
		}
	}
	return r.Errors()
}

// validateCSINodeUpdate: a driver's entry goes as a whole and comes anew; only how many volumes it takes may change.
func validateCSINodeUpdate(_ context.Context, n, old *v1.CSINode) field.ErrorList {
	r := &rule.Report{}
	for i, d := range n.Spec.Drivers {
		for _, o := range old.Spec.Drivers {
			if o.Name == d.Name {
				o.Allocatable = d.Allocatable
				r.Same(field.NewPath("spec", "drivers").Index(i), d, o)
			}
		}
	}
	return r.Errors()
}

func validateCSIStorageCapacity(_ context.Context, c *v1.CSIStorageCapacity) field.ErrorList {
	r := &rule.Report{}
	r.Selector(field.NewPath("nodeTopology"), c.NodeTopology)
	r.Name(field.NewPath("storageClassName"), c.StorageClassName, subdomain)
	for _, q := range []struct {
		name  string
		value *resource.Quantity
	}{{"capacity", c.Capacity}, {"maximumVolumeSize", c.MaximumVolumeSize}} {
		if q.value != nil && q.value.Sign() < 0 {
			r.Invalid(field.NewPath(q.name), q.value.String(), "must be greater than or equal to 0")
		}
	}
	return r.Errors()
}

func validateCSIStorageCapacityUpdate(_ context.Context, c, old *v1.CSIStorageCapacity) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)
	r.Same(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)
	return r.Errors()
}
