// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateClass(ctx context.Context, c *v1.DeviceClass) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	r.Add(v1.Validate_DeviceClassSpec(ctx, creating, path, &c.Spec, nil)...)
	selectors(r, path.Child("selectors"), c.Spec.Selectors)
	for i := range c.Spec.Config {
		configuration(r, path.Child("config").Index(i), &c.Spec.Config[i].DeviceConfiguration)
	}
	if n := c.Spec.ExtendedResourceName; n != nil {
		at := path.Child("extendedResourceName")
		r.Invalid(at, *n, validation.IsQualifiedName(*n)...)
		if !strings.Contains(*n, "/") || strings.Contains(*n, "kubernetes.io/") {
			r.Invalid(at, *n, "must be the name of an extended resource, with a domain other than kubernetes.io")
		}
	}
	return r.Errors()
}

func validateSlice(ctx context.Context, s *v1.ResourceSlice) field.ErrorList {
	r := &rule.Report{}
	path, spec := field.NewPath("spec"), &s.Spec
	r.Add(v1.Validate_ResourceSliceSpec(ctx, creating, path, spec, nil)...)
	driver(r, path.Child("driver"), spec.Driver)
	pool(r, path.Child("pool", "name"), spec.Pool.Name)
	r.NotNegative(path.Child("pool", "generation"), spec.Pool.Generation)
	r.Positive(path.Child("pool", "resourceSliceCount"), spec.Pool.ResourceSliceCount)
	each := spec.PerDeviceNodeSelection != nil && *spec.PerDeviceNodeSelection
	nodes(r, path, placement{spec.NodeName, spec.AllNodes, spec.NodeSelector != nil, spec.PerDeviceNodeSelection})
	if spec.NodeSelector != nil {
		podspec.NodeSelector(r, path.Child("nodeSelector"), spec.NodeSelector)
		if n := len(spec.NodeSelector.NodeSelectorTerms); n > 1 {
			r.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), n, "must have exactly one node selector term")
		}
	}
	most := v1.ResourceSliceMaxDevices
	if slices.ContainsFunc(spec.Devices, func(d v1.Device) bool { return len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 }) {
		most = v1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	if n := len(spec.Devices); n > most {
		r.Add(field.TooMany(path.Child("devices"), n, most))
	}
	names := map[string]bool{}
	for i := range spec.Devices {
		d, at := &spec.Devices[i], path.Child("devices").Index(i)
		r.Name(at.Child("name"), d.Name, validation.IsDNS1123Label)
		if names[d.Name] {
			r.Add(field.Duplicate(at.Child("name"), d.Name))
		}
		names[d.Name] = true
		device(r, at, d, each)
	}
	return r.Errors()
}

// placement says on which nodes devices are.
type placement struct {
	node *string
	all  *bool
	some bool
	each *bool // slices only: every device says it itself
}

func nodes(r *rule.Report, at *field.Path, p placement) {
	choices := []rule.Choice{{Name: "nodeName", Set: p.node != nil}, {Name: "nodeSelector", Set: p.some}, {Name: "allNodes", Set: p.all != nil}}
	choices = append(choices, rule.Choice{Name: "perDeviceNodeSelection", Set: p.each != nil})
	r.ExactlyOne(at, choices...)
	if p.node != nil {
		r.Name(at.Child("nodeName"), *p.node, subdomain)
	}
	if p.all != nil && !*p.all {
		r.Invalid(at.Child("allNodes"), false, "must be either unset or set to true")
	}
	if p.each != nil && !*p.each {
		r.Invalid(at.Child("perDeviceNodeSelection"), false, "must be either unset or set to true")
	}
}

func device(r *rule.Report, at *field.Path, d *v1.Device, each bool) {
	if n := len(d.Attributes) + len(d.Capacity); n > v1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		r.Invalid(at, n, "the total number of attributes and capacities must not exceed the given maximum of 32")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		qualifiedKey(r, at.Child("attributes").Key(string(name)), string(name))
		attribute(r, at.Child("attributes").Key(string(name)), d.Attributes[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
		at := at.Child("capacity").Key(string(name))
		qualifiedKey(r, at, string(name))
		c := d.Capacity[name]
		if c.RequestPolicy != nil && (d.AllowMultipleAllocations == nil || !*d.AllowMultipleAllocations) {
			r.Forbidden(at.Child("requestPolicy"), true, "allowMultipleAllocations must be true")
		}
	}
	for i, t := range d.Taints {
		taint(r, at.Child("taints").Index(i), t)
	}
	if each {
		n := 0
		for _, set := range []bool{d.NodeName != nil, d.NodeSelector != nil, d.AllNodes != nil} {
			if set {
				n++
			}
		}
		if n != 1 {
			r.Required(at, false, "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when the slice's `perDeviceNodeSelection` is true")
		}
	} else {
		for _, f := range []rule.Choice{{Name: "nodeName", Set: d.NodeName != nil}, {Name: "nodeSelector", Set: d.NodeSelector != nil}, {Name: "allNodes",
			Set: d.AllNodes != nil}} {
			if f.Set {
				r.Invalid(at.Child(f.Name), "", "`"+f.Name+"` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")
			}
		}
	}
	if d.NodeName != nil {
		r.Name(at.Child("nodeName"), *d.NodeName, subdomain)
	}
	if d.NodeSelector != nil {
		podspec.NodeSelector(r, at.Child("nodeSelector"), d.NodeSelector)
	}
	if len(d.BindingConditions) > 0 != (len(d.BindingFailureConditions) > 0) {
		r.Required(at.Child("bindingConditions"), false, "bindingConditions and bindingFailureConditions must be set together")
	}
}

// qualifiedKey: an identifier, after a domain if it is not the driver's own.
func qualifiedKey(r *rule.Report, at *field.Path, name string) {
	if domain, id, ok := strings.Cut(name, "/"); ok {
		qualified(r, at, domain, id)
		return
	}
	identifier(r, at, name)
}

func attribute(r *rule.Report, at *field.Path, a v1.DeviceAttribute) {
	texts := slices.Clone(a.StringValues)
	if a.StringValue != nil {
		texts = append(texts, *a.StringValue)
	}
	for _, s := range texts {
		if len(s) > v1.DeviceAttributeMaxValueLength {
			r.Add(field.TooLong(at.Child("string"), s, v1.DeviceAttributeMaxValueLength))
		}
	}
	versions := slices.Clone(a.VersionValues)
	if a.VersionValue != nil {
		versions = append(versions, *a.VersionValue)
	}
	for _, s := range versions {
		if len(s) > v1.DeviceAttributeMaxValueLength {
			r.Add(field.TooLong(at.Child("version"), s, v1.DeviceAttributeMaxValueLength))
		}
		if !semantic.MatchString(s) {
			r.Invalid(at.Child("version"), s, "must be a string compatible with semver.org spec 2.0.0")
		}
	}
}

func taint(r *rule.Report, at *field.Path, t v1.DeviceTaint) {
	r.Add(metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
	if t.Value != "" {
		r.Invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value)...)
	}
}

// validateSliceUpdate: whose devices these are, and where, never changes.
func validateSliceUpdate(_ context.Context, s, old *v1.ResourceSlice) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	r.Same(path.Child("driver"), s.Spec.Driver, old.Spec.Driver)
	r.Same(path.Child("pool", "name"), s.Spec.Pool.Name, old.Spec.Pool.Name)
	r.Same(path.Child("nodeName"), s.Spec.NodeName, old.Spec.NodeName)
	return r.Errors()
}

func validateTaintRule(ctx context.Context, t *v1.DeviceTaintRule) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	r.Add(v1.Validate_DeviceTaintRuleSpec(ctx, creating, path, &t.Spec, nil)...)
	if s := t.Spec.DeviceSelector; s != nil {
		at := path.Child("deviceSelector")
		if s.Driver != nil {
			driver(r, at.Child("driver"), *s.Driver)
		}
		if s.Pool != nil {
			pool(r, at.Child("pool"), *s.Pool)
		}
		if s.Device != nil {
			r.Name(at.Child("device"), *s.Device, validation.IsDNS1123Label)
		}
	}
	taint(r, path.Child("taint"), t.Spec.Taint)
	return r.Errors()
}

func validateTaintRuleUpdate(_ context.Context, t, old *v1.DeviceTaintRule) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec", "deviceSelector"), t.Spec.DeviceSelector, old.Spec.DeviceSelector)
	return r.Errors()
}

func validateTaintRuleStatus(ctx context.Context, t, old *v1.DeviceTaintRule) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("status")
	r.Add(v1.Validate_DeviceTaintRuleStatus(ctx, updating, path, &t.Status, &old.Status)...)
	r.Add(metavalidation.ValidateConditions(t.Status.Conditions, path.Child("conditions"))...)
	return r.Errors()
}

// semantic is a version as semver.org 2.0.0 defines it.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)` +
	`(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
	`(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)
