// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateNode(_ context.Context, n *v1.Node) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	type key struct {
		key    string
		effect v1.TaintEffect
	}
	seen := map[key]bool{}
	for i, t := range n.Spec.Taints {
		at := path.Child("taints").Index(i)
		r.Add(metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		r.Invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value)...)
		rule.OneOf(r, at.Child("effect"), t.Effect, v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute)
		if k := (key{t.Key, t.Effect}); seen[k] {
			r.Add(field.Duplicate(at, fmt.Sprintf("%s:%s", t.Key, t.Effect)))
		} else {
			seen[k] = true
		}
	}
	podCIDRs(r, path.Child("podCIDRs"), n.Spec.PodCIDRs)
	if p := n.Spec.PodPreemptionPolicy; p != nil {
		owners := path.Child("podPreemptionPolicy", "disableResizePreemption")
		if n := len(p.DisableResizePreemption); n > 20 {
			r.Add(field.TooMany(owners, n, 20))
		}
		for i, o := range p.DisableResizePreemption {
			r.Add(metavalidation.ValidateLabelName(o, owners.Index(i))...)
			if slices.Contains(p.DisableResizePreemption[:i], o) {
				r.Add(field.Duplicate(owners.Index(i), o))
			}
		}
	}
	nodeResources(r, field.NewPath("status"), n)
	return r.Errors()
}

// podCIDRs: at most one range per family.
func podCIDRs(r *rule.Report, at *field.Path, cidrs []string) {
	if n := len(cidrs); n > 2 {
		r.Add(field.TooMany(at, n, 2))
	}
	families := map[bool]bool{}
	for i, text := range cidrs {
		r.Add(validation.IsValidCIDRForLegacyField(at.Index(i), text, true, nil)...)
		if p, err := netip.ParsePrefix(text); err == nil {
			if families[p.Addr().Is4()] {
				r.Invalid(at, cidrs, "may specify no more than one CIDR for each IP family")
			}
			families[p.Addr().Is4()] = true
		}
	}
}

func nodeResources(r *rule.Report, path *field.Path, n *v1.Node) {
	native := func(name v1.ResourceName) bool {
		return name == v1.ResourceCPU || name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage || name == v1.ResourcePods ||
			name == v1.ResourceStorage || podspec.IsInteger(name) || strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
	}
	for _, l := range []struct {
		name string
		list v1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for name, q := range l.list {
			at := path.Child(l.name).Key(string(name))
			podspec.ResourceName(r, at, name, native)
			podspec.Quantity(r, at, name, q)
		}
	}
}

// validateNodeUpdate: what was assigned to a node is not taken away or changed.
func validateNodeUpdate(_ context.Context, n, old *v1.Node) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 {
		r.Forbidden(path.Child("podCIDRs"), !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs), "node updates may not change podCIDR except from \"\" to valid")
	}
	if old.Spec.ProviderID != "" {
		r.Forbidden(path.Child("providerID"), n.Spec.ProviderID != old.Spec.ProviderID, "node updates may not change providerID except from \"\" to valid")
	}
	return r.Errors()
}

func validateNodeStatus(_ context.Context, n, _ *v1.Node) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("status")
	nodeResources(r, path, n)
	seen := map[v1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if seen[a] {
			r.Add(field.Duplicate(path.Child("addresses").Index(i), a))
		}
		seen[a] = true
	}
	for i, img := range n.Status.Images {
		for j, name := range img.Names {
			r.Required(path.Child("images").Index(i).Child("names").Index(j), name != "", "")
		}
	}
	features := n.Status.DeclaredFeatures
	for i, f := range features {
		at := path.Child("declaredFeatures").Index(i)
		r.Required(at, f != "", "")
		if i > 0 && features[i-1] >= f {
			r.Invalid(path.Child("declaredFeatures"), features, "list must be sorted and without duplicates")
			break
		}
	}
	return r.Errors()
}
