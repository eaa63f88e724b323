// SPDX-License-Identifier: Apache-2.0

// Package rule has the words in which kinds state their field rules. A Report collects every broken rule of an object, each with the field's path,
// the bad value and what is allowed; nothing stops at the first.
package rule

import (
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Report is the list of broken rules. The zero value is empty and ready.
type Report struct{ errs field.ErrorList }

// Errors returns what was reported, each thing once: a generated rule and one of ours may say the same.
func (r *Report) Errors() field.ErrorList {
	said := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(r.errs), func(e *field.Error) bool {
		text := e.Error()
		again := said[text]
		said[text] = true
		return again
	})
}

// Add reports errs.
func (r *Report) Add(errs ...*field.Error) { r.errs = append(r.errs, errs...) }

// Invalid reports value once for every message.
func (r *Report) Invalid(path *field.Path, value any, messages ...string) {
	for _, m := range messages {
		r.Add(field.Invalid(path, value, m))
	}
}

// Required reports a missing value and returns whether it is there.
func (r *Report) Required(path *field.Path, present bool, detail string) bool {
	if !present {
		r.Add(field.Required(path, detail))
	}
	return present
}

// Name reports an empty value as missing and any other by what check says of it.
func (r *Report) Name(path *field.Path, value string, check func(string) []string) {
	if r.Required(path, value != "", "") {
		r.Invalid(path, value, check(value)...)
	}
}

// Optional is Name for values that may be left out.
func (r *Report) Optional(path *field.Path, value string, check func(string) []string) {
	if value != "" {
		r.Invalid(path, value, check(value)...)
	}
}

// Forbidden reports a field that must not be set here, if it is.
func (r *Report) Forbidden(path *field.Path, set bool, detail string) {
	if set {
		r.Add(field.Forbidden(path, detail))
	}
}

// NotNegative reports a number below zero.
func (r *Report) NotNegative(path *field.Path, n int64) {
	if n < 0 {
		r.Invalid(path, n, "must be greater than or equal to 0")
	}
}

// Between reports a number outside from..to.
func (r *Report) Between(path *field.Path, n, from, to int64) {
	if n < from || n > to {
		r.Invalid(path, n, validation.InclusiveRangeError(int(from), int(to)))
	}
}

// Positive reports a number below one.
func (r *Report) Positive(path *field.Path, n int64) {
	if n < 1 {
		r.Invalid(path, n, "must be greater than 0")
	}
}

// Port reports a number that is no port.
func (r *Report) Port(path *field.Path, n int32) {
	r.Invalid(path, n, validation.IsValidPortNum(int(n))...)
}

// PortOrName reports a value that is neither a port's number nor its name.
func (r *Report) PortOrName(path *field.Path, p intstr.IntOrString) {
	if p.Type == intstr.Int {
		r.Port(path, p.IntVal)
		return
	}
	r.Invalid(path, p.StrVal, validation.IsValidPortName(p.StrVal)...)
}

// Selector reports what is wrong with a label selector; nil is fine.
func (r *Report) Selector(path *field.Path, s *metav1.LabelSelector) {
	r.Add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, path)...)
}

// Labels reports keys and values that no label can have.
func (r *Report) Labels(path *field.Path, labels map[string]string) {
	r.Add(metavalidation.ValidateLabels(labels, path)...)
}

// Same reports a changed value of a field that never changes.
func (r *Report) Same(path *field.Path, now, was any) {
	if !equality.Semantic.DeepEqual(now, was) {
		r.Invalid(path, now, "field is immutable")
	}
}

// OneOf reports a value that is not among allowed; an empty one as missing.
func OneOf[T ~string](r *Report, path *field.Path, value T, allowed ...T) {
	switch {
	case value == "" && !slices.Contains(allowed, ""):
		r.Add(field.Required(path, "must be one of "+join(allowed)))
	case !slices.Contains(allowed, value):
		r.Add(field.NotSupported(path, value, allowed))
	}
}

// OneOfOptional is OneOf for a pointer that may be nil.
func OneOfOptional[T ~string](r *Report, path *field.Path, value *T, allowed ...T) {
	if value != nil && !slices.Contains(allowed, *value) {
		r.Add(field.NotSupported(path, *value, allowed))
	}
}

// Unique reports every element of list whose key came before.
func Unique[T any, K comparable](r *Report, path *field.Path, list []T, key func(*T) (K, *field.Path)) {
	seen := map[K]bool{}
	for i := range list {
		k, at := key(&list[i])
		if seen[k] {
			r.Add(field.Duplicate(at, k))
		}
		seen[k] = true
	}
}

func join[T ~string](list []T) string {
	out := ""
	for i, x := range list {
		if i > 0 {
			out += ", "
		}
		out += string(x)
	}
	return out
}

// ExactlyOne reports a choice of which none or several were made; set tells for each alternative by name whether it was.
func (r *Report) ExactlyOne(path *field.Path, set ...Choice) {
	n, names := 0, []string{}
	for _, c := range set {
		names = append(names, c.Name)
		if !c.Set {
			continue
		}
		if n++; n > 1 {
			r.Add(field.Forbidden(path.Child(c.Name), "may not specify more than 1 of "+join(names)))
		}
	}
	if n == 0 {
		r.Add(field.Required(path, "must specify one of: "+join(names)))
	}
}

// Choice is one alternative of ExactlyOne.
type Choice struct {
	Name string
	Set  bool
}

// Amount reports what is neither a count from zero on nor a percentage.
func (r *Report) Amount(path *field.Path, n intstr.IntOrString) {
	if n.Type == intstr.String {
		r.Invalid(path, n.StrVal, validation.IsValidPercent(n.StrVal)...)
		return
	}
	r.NotNegative(path, int64(n.IntVal))
}

// AtMostAll reports a percentage above 100.
func (r *Report) AtMostAll(path *field.Path, n intstr.IntOrString) {
	if p, ok := percent(n); ok && p > 100 {
		r.Invalid(path, n.StrVal, "must not be greater than 100%")
	}
}

// IsZero tells whether n is 0 or 0%.
func IsZero(n *intstr.IntOrString) bool {
	if n == nil {
		return true
	}
	if p, ok := percent(*n); ok {
		return p == 0
	}
	return n.Type == intstr.Int && n.IntVal == 0
}

func percent(n intstr.IntOrString) (int, bool) {
	text, ok := strings.CutSuffix(n.StrVal, "%")
	if n.Type != intstr.String || !ok {
		return 0, false
	}
	p, err := strconv.Atoi(text)
	return p, err == nil
}

// Counts reports negative numbers of a status, and those greater than the first, which counts all.
func (r *Report) Counts(path *field.Path, all Count, parts ...Count) {
	r.NotNegative(path.Child(all.Name), int64(all.N))
	for _, p := range parts {
		r.NotNegative(path.Child(p.Name), int64(p.N))
		if p.N > all.N {
			r.Invalid(path.Child(p.Name), p.N, "cannot be greater than status."+all.Name)
		}
	}
}

// Count is one number of a status.
type Count struct {
	Name string
	N    int32
}
