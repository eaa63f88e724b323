// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// Rules that k8s.io/api states beside its types (sizes, unions, unique keys) are checked by its own generated functions; here stands what those leave
// out: names, references between parts of an object, and expressions.

// Fields of features that Kubernetes gates are part of the API here.
var (
	features = map[string]bool{"DRAPartitionableDevicesType": true}
	creating = operation.Operation{Type: operation.Create, Options: features}
	updating = operation.Operation{Type: operation.Update, Options: features}
)

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }

// driver: a DNS name of at most 63 characters.
func driver(r *rule.Report, at *field.Path, name string) {
	if !r.Required(at, name != "", "") {
		return
	}
	if len(name) > v1.DriverNameMaxLength {
		r.Add(field.TooLong(at, name, v1.DriverNameMaxLength))
	}
	r.Invalid(at, name, validation.IsDNS1123Subdomain(strings.ToLower(name))...)
}

// pool: DNS names with slashes between, as drivers name pools after nodes and what is on them.
func pool(r *rule.Report, at *field.Path, name string) {
	if !r.Required(at, name != "", "") {
		return
	}
	if len(name) > 253 {
		r.Add(field.TooLong(at, name, 253))
	}
	for part := range strings.SplitSeq(name, "/") {
		r.Invalid(at, part, validation.IsDNS1123Subdomain(part)...)
	}
}

func validateClaim(ctx context.Context, c *v1.ResourceClaim) field.ErrorList {
	r := &rule.Report{}
	claimSpec(ctx, r, field.NewPath("spec"), &c.Spec)
	return r.Errors()
}

func validateClaimTemplate(ctx context.Context, t *v1.ResourceClaimTemplate) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	r.Labels(path.Child("metadata", "labels"), t.Spec.Labels)
	r.Add(apivalidation.ValidateAnnotations(t.Spec.Annotations, path.Child("metadata", "annotations"))...)
	claimSpec(ctx, r, path.Child("spec"), &t.Spec.Spec)
	return r.Errors()
}

func claimSpec(ctx context.Context, r *rule.Report, path *field.Path, s *v1.ResourceClaimSpec) {
	r.Add(v1.Validate_ResourceClaimSpec(ctx, creating, path, s, nil)...)
	path = path.Child("devices")
	names := map[string]bool{}
	for i := range s.Devices.Requests {
		q, at := &s.Devices.Requests[i], path.Child("requests").Index(i)
		r.Name(at.Child("name"), q.Name, validation.IsDNS1123Label)
		names[q.Name] = true
		r.Required(at, q.Exactly != nil || len(q.FirstAvailable) > 0, "exactly one of `exactly` or `firstAvailable` is required")
		if e := q.Exactly; e != nil {
			at := at.Child("exactly")
			r.Name(at.Child("deviceClassName"), e.DeviceClassName, subdomain)
			selectors(r, at.Child("selectors"), e.Selectors)
			count(r, at, e.AllocationMode, e.Count)
			tolerations(r, at.Child("tolerations"), e.Tolerations)
		}
		seen := map[string]bool{}
		for j := range q.FirstAvailable {
			sub, at := &q.FirstAvailable[j], at.Child("firstAvailable").Index(j)
			r.Name(at.Child("name"), sub.Name, validation.IsDNS1123Label)
			if seen[sub.Name] {
				r.Add(field.Duplicate(at.Child("name"), sub.Name))
			}
			seen[sub.Name] = true
			names[q.Name+"/"+sub.Name] = true
			r.Name(at.Child("deviceClassName"), sub.DeviceClassName, subdomain)
			selectors(r, at.Child("selectors"), sub.Selectors)
			count(r, at, sub.AllocationMode, sub.Count)
			tolerations(r, at.Child("tolerations"), sub.Tolerations)
		}
	}
	for i, c := range s.Devices.Constraints {
		at := path.Child("constraints").Index(i)
		references(r, at.Child("requests"), c.Requests, names)
		r.Required(at, c.MatchAttribute != nil || c.DistinctAttribute != nil, "exactly one of `matchAttribute` or `distinctAttribute` is required")
		for _, a := range []struct {
			name  string
			value *v1.FullyQualifiedName
		}{{"matchAttribute", c.MatchAttribute}, {"distinctAttribute", c.DistinctAttribute}} {
			if a.value != nil {
				fullyQualified(r, at.Child(a.name), string(*a.value))
			}
		}
	}
	for i := range s.Devices.Config {
		at := path.Child("config").Index(i)
		references(r, at.Child("requests"), s.Devices.Config[i].Requests, names)
		configuration(r, at, &s.Devices.Config[i].DeviceConfiguration)
	}
}

func references(r *rule.Report, at *field.Path, list []string, names map[string]bool) {
	for i, name := range list {
		if !names[name] {
			r.Invalid(at.Index(i), name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'")
		}
		if slices.Contains(list[:i], name) {
			r.Add(field.Duplicate(at.Index(i), name))
		}
	}
}

func count(r *rule.Report, at *field.Path, mode v1.DeviceAllocationMode, n int64) {
	switch mode {
	case v1.DeviceAllocationModeAll:
		if n != 0 {
			r.Invalid(at.Child("count"), n, "must not be specified when allocationMode is 'All'")
		}
	case v1.DeviceAllocationModeExactCount:
		r.Positive(at.Child("count"), n)
	}
}

func tolerations(r *rule.Report, path *field.Path, list []v1.DeviceToleration) {
	for i, t := range list {
		at := path.Index(i)
		switch {
		case t.Operator == v1.DeviceTolerationOpExists && t.Value != "":
			r.Invalid(at.Child("value"), t.Value, "must be empty for operator 'Exists'")
		case t.Operator == v1.DeviceTolerationOpEqual:
			r.Required(at.Child("key"), t.Key != "", "must be set for operator 'Equal'")
			r.Invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value)...)
		}
	}
}

// selectors compiles every expression as the scheduler would, and estimates what it may cost.
func selectors(r *rule.Report, path *field.Path, list []v1.DeviceSelector) {
	for i, s := range list {
		at := path.Index(i)
		if !r.Required(at.Child("cel"), s.CEL != nil, "") {
			continue
		}
		at = at.Child("cel", "expression")
		text := s.CEL.Expression
		if !r.Required(at, strings.TrimSpace(text) != "", "") {
			continue
		}
		if len(text) > v1.CELSelectorExpressionMaxLength {
			r.Add(field.TooLong(at, "", v1.CELSelectorExpressionMaxLength))
			continue
		}
		compiled := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true, EnableListTypeAttributes: true}).CompileCELExpression(text, dracel.Options{})
		switch {
		case compiled.Error != nil:
			r.Invalid(at, text, compiled.Error.Error())
		case compiled.MaxCost > v1.CELSelectorExpressionMaxCost:
			r.Forbidden(at, true, fmt.Sprintf("too complex, exceeds cost limit: %d > %d", compiled.MaxCost, v1.CELSelectorExpressionMaxCost))
		}
	}
}

func configuration(r *rule.Report, at *field.Path, c *v1.DeviceConfiguration) {
	if !r.Required(at, c.Opaque != nil, "must specify one of: opaque") {
		return
	}
	at = at.Child("opaque")
	driver(r, at.Child("driver"), c.Opaque.Driver)
	object(r, at.Child("parameters"), c.Opaque.Parameters, v1.OpaqueParametersMaxLength)
}

// object reports data that is no JSON object, or more than limit bytes.
func object(r *rule.Report, at *field.Path, data runtime.RawExtension, limit int) {
	var value map[string]any
	switch {
	case len(data.Raw) == 0:
		r.Required(at, data.Object != nil, "")
	case len(data.Raw) > limit:
		r.Add(field.TooLong(at, "", limit))
	case json.Unmarshal(data.Raw, &value) != nil || value == nil:
		r.Invalid(at, "<value omitted>", "must be a valid JSON object")
	}
}

// fullyQualified: domain/identifier, an identifier being a C one.
func fullyQualified(r *rule.Report, at *field.Path, name string) {
	domain, id, ok := strings.Cut(name, "/")
	if !ok {
		r.Invalid(at, name, "must include a domain")
		return
	}
	qualified(r, at, domain, id)
}

func qualified(r *rule.Report, at *field.Path, domain, id string) {
	if len(domain) > v1.DeviceMaxDomainLength {
		r.Add(field.TooLong(at, domain, v1.DeviceMaxDomainLength))
	}
	r.Invalid(at, domain, validation.IsDNS1123Subdomain(domain)...)
	identifier(r, at, id)
}

func identifier(r *rule.Report, at *field.Path, id string) {
	if len(id) > v1.DeviceMaxIDLength {
		r.Add(field.TooLong(at, id, v1.DeviceMaxIDLength))
	}
	for i, c := range id {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			r.Invalid(at, id, "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'")
			return
		}
	}
	r.Required(at, id != "", "the name must not be empty")
}

func validateClaimUpdate(_ context.Context, c, old *v1.ResourceClaim) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec"), c.Spec, old.Spec)
	return r.Errors()
}

func validateClaimTemplateUpdate(_ context.Context, t, old *v1.ResourceClaimTemplate) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec"), t.Spec, old.Spec)
	return r.Errors()
}

// validateClaimStatus: an allocation is made and taken back as a whole, and only an allocated claim that is not going away gets new users.
func validateClaimStatus(ctx context.Context, c, old *v1.ResourceClaim) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &c.Status
	r.Add(v1.Validate_ResourceClaimStatus(ctx, updating, path, st, &old.Status)...)
	if st.Allocation != nil && old.Status.Allocation != nil {
		r.Same(path.Child("allocation"), st.Allocation, old.Status.Allocation)
	}
	names := map[string]bool{}
	for i := range c.Spec.Devices.Requests {
		q := &c.Spec.Devices.Requests[i]
		names[q.Name] = true
		for j := range q.FirstAvailable {
			names[q.Name+"/"+q.FirstAvailable[j].Name] = true
		}
	}
	if a := st.Allocation; a != nil && old.Status.Allocation == nil {
		for i, d := range a.Devices.Results {
			at := path.Child("allocation", "devices", "results").Index(i)
			if !names[d.Request] {
				r.Invalid(at.Child("request"), d.Request, "must be the name of a request in the claim")
			}
			driver(r, at.Child("driver"), d.Driver)
			pool(r, at.Child("pool"), d.Pool)
			r.Name(at.Child("device"), d.Device, validation.IsDNS1123Label)
		}
	}
	had := map[string]bool{}
	for _, u := range old.Status.ReservedFor {
		had[string(u.UID)] = true
	}
	users := path.Child("reservedFor")
	if n := len(st.ReservedFor); n > v1.ResourceClaimReservedForMaxSize {
		r.Add(field.TooMany(users, n, v1.ResourceClaimReservedForMaxSize))
	}
	seen := map[string]bool{}
	added := false
	for i, u := range st.ReservedFor {
		at := users.Index(i)
		r.Required(at.Child("resource"), u.Resource != "", "")
		r.Required(at.Child("name"), u.Name != "", "")
		if r.Required(at.Child("uid"), u.UID != "", "") && seen[string(u.UID)] {
			r.Add(field.Duplicate(at.Child("uid"), u.UID))
		}
		seen[string(u.UID)] = true
		added = added || !had[string(u.UID)]
	}
	r.Forbidden(users, len(st.ReservedFor) > 0 && st.Allocation == nil, "may not be specified when `allocated` is not set")
	r.Forbidden(users, added && c.DeletionTimestamp != nil, "new entries may not be added while `deletionTimestamp` is set")
	return r.Errors()
}
