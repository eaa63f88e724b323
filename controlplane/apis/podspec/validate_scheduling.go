// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"math"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// scheduling reports what is wrong with everything that says where the pod may run.
func scheduling(r *rule.Report, path *field.Path, spec *v1.PodSpec) {
	if a := spec.Affinity; a != nil {
		at := path.Child("affinity")
		nodeAffinity(r, at.Child("nodeAffinity"), a.NodeAffinity)
		if p := a.PodAffinity; p != nil {
			podTerms(r, at.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := a.PodAntiAffinity; p != nil {
			podTerms(r, at.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range spec.Tolerations {
		Toleration(r, path.Child("tolerations").Index(i), &spec.Tolerations[i])
	}
	spread(r, path.Child("topologySpreadConstraints"), spec.TopologySpreadConstraints)
	gates := map[string]bool{}
	for i, g := range spec.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		r.Invalid(at.Child("name"), g.Name, validation.IsQualifiedName(g.Name)...)
		if gates[g.Name] {
			r.Add(field.Duplicate(at, g.Name))
		}
		gates[g.Name] = true
	}
	r.Forbidden(path.Child("nodeName"), len(spec.SchedulingGates) > 0 && spec.NodeName != "", "cannot be set until all schedulingGates have been cleared")
	for i, g := range spec.ReadinessGates {
		r.Invalid(path.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType), validation.IsQualifiedName(string(g.ConditionType))...)
	}
}

// Toleration reports a toleration that could tolerate nothing, or says it in a contradictory way.
func Toleration(r *rule.Report, at *field.Path, t *v1.Toleration) {
	if t.Key != "" {
		r.Add(metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
	}
	if t.Key == "" && t.Operator != v1.TolerationOpExists {
		r.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
	}
	if t.TolerationSeconds != nil && t.Effect != v1.TaintEffectNoExecute {
		r.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
	}
	switch t.Operator {
	case v1.TolerationOpEqual, "":
		r.Invalid(at.Child("operator"), t.Value, validation.IsValidLabelValue(t.Value)...)
	case v1.TolerationOpExists:
		if t.Value != "" {
			r.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
		}
	case v1.TolerationOpLt, v1.TolerationOpGt:
		n, err := strconv.ParseInt(t.Value, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != t.Value {
			r.Invalid(at.Child("value"), t.Value, "must be an integer without leading zeros when `operator` is 'Lt' or 'Gt'")
		}
	default:
		r.Add(field.NotSupported(at.Child("operator"), t.Operator, []v1.TolerationOperator{v1.TolerationOpEqual, v1.TolerationOpExists, v1.TolerationOpGt,
			v1.TolerationOpLt}))
	}
	if t.Effect != "" {
		rule.OneOf(r, at.Child("effect"), t.Effect, v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute)
	}
}

func nodeAffinity(r *rule.Report, at *field.Path, a *v1.NodeAffinity) {
	if a == nil {
		return
	}
	if s := a.RequiredDuringSchedulingIgnoredDuringExecution; s != nil {
		NodeSelector(r, at.Child("requiredDuringSchedulingIgnoredDuringExecution"), s)
	}
	for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		t, at := &a.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		r.Between(at.Child("weight"), int64(t.Weight), 1, 100)
		nodeTerm(r, at.Child("preference"), &t.Preference)
	}
}

// NodeSelector reports what is wrong with a selection of nodes. One without terms selects nothing and is refused.
func NodeSelector(r *rule.Report, at *field.Path, s *v1.NodeSelector) {
	r.Required(at.Child("nodeSelectorTerms"), len(s.NodeSelectorTerms) > 0, "must have at least one node selector term")
	for i := range s.NodeSelectorTerms {
		nodeTerm(r, at.Child("nodeSelectorTerms").Index(i), &s.NodeSelectorTerms[i])
	}
}

func nodeTerm(r *rule.Report, at *field.Path, t *v1.NodeSelectorTerm) {
	for i := range t.MatchExpressions {
		q, at := &t.MatchExpressions[i], at.Child("matchExpressions").Index(i)
		switch q.Operator {
		case v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn:
			r.Required(at.Child("values"), len(q.Values) > 0, "must be specified when `operator` is 'In' or 'NotIn'")
		case v1.NodeSelectorOpExists, v1.NodeSelectorOpDoesNotExist:
			r.Forbidden(at.Child("values"), len(q.Values) > 0, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		case v1.NodeSelectorOpGt, v1.NodeSelectorOpLt:
			if r.Required(at.Child("values"), len(q.Values) == 1, "must be specified single value when `operator` is 'Lt' or 'Gt'") {
				if _, err := strconv.ParseInt(q.Values[0], 10, 64); err != nil {
					r.Invalid(at.Child("values").Index(0), q.Values[0], "must be an integer when `operator` is 'Lt' or 'Gt'")
				}
			}
		default:
			r.Invalid(at.Child("operator"), q.Operator, "not a valid selector operator")
		}
		r.Add(metavalidation.ValidateLabelName(q.Key, at.Child("key"))...)
		if q.Operator == v1.NodeSelectorOpIn || q.Operator == v1.NodeSelectorOpNotIn {
			for j, value := range q.Values {
				r.Invalid(at.Child("values").Index(j), value, validation.IsValidLabelValue(value)...)
			}
		}
	}
	for i := range t.MatchFields {
		q, at := &t.MatchFields[i], at.Child("matchFields").Index(i)
		switch q.Operator {
		case v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn:
			r.Required(at.Child("values"), len(q.Values) == 1, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		default:
			r.Invalid(at.Child("operator"), q.Operator, "not a valid selector operator")
		}
		if q.Key != metav1.ObjectNameField {
			r.Invalid(at.Child("key"), q.Key, "not a valid field selector key")
			continue
		}
		for j, value := range q.Values {
			r.Invalid(at.Child("values").Index(j), value, apivalidation.NameIsDNSSubdomain(value, false)...)
		}
	}
}

func podTerms(r *rule.Report, at *field.Path, required []v1.PodAffinityTerm, preferred []v1.WeightedPodAffinityTerm) {
	for i := range required {
		podTerm(r, at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i), &required[i])
	}
	for i := range preferred {
		at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		r.Between(at.Child("weight"), int64(preferred[i].Weight), 1, 100)
		podTerm(r, at.Child("podAffinityTerm"), &preferred[i].PodAffinityTerm)
	}
}

func podTerm(r *rule.Report, at *field.Path, t *v1.PodAffinityTerm) {
	r.Selector(at.Child("labelSelector"), t.LabelSelector)
	r.Selector(at.Child("namespaceSelector"), t.NamespaceSelector)
	for i, n := range t.Namespaces {
		r.Invalid(at.Child("namespaces").Index(i), n, validation.IsDNS1123Label(n)...)
	}
	if r.Required(at.Child("topologyKey"), t.TopologyKey != "", "can not be empty") {
		r.Add(metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
	}
	labelKeys(r, at.Child("matchLabelKeys"), t.MatchLabelKeys, t.LabelSelector, metav1.LabelSelectorOpIn)
	labelKeys(r, at.Child("mismatchLabelKeys"), t.MismatchLabelKeys, t.LabelSelector, metav1.LabelSelectorOpNotIn)
	for i, k := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, k) {
			r.Invalid(at.Child("matchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

// labelKeys reports keys that mean nothing without a selector, or that the selector mentions already. A requirement of one value with the operator
// that the server itself adds for such keys is no contradiction.
func labelKeys(r *rule.Report, at *field.Path, keys []string, s *metav1.LabelSelector, adds metav1.LabelSelectorOperator) {
	if len(keys) == 0 {
		return
	}
	if s == nil {
		r.Forbidden(at, true, "must not be specified when labelSelector is not set")
		return
	}
	for i, k := range keys {
		r.Add(metavalidation.ValidateLabelName(k, at.Index(i))...)
		if slices.Contains(keys[:i], k) {
			r.Add(field.Duplicate(at.Index(i), k))
		}
		_, exact := s.MatchLabels[k]
		n := 0
		for _, q := range s.MatchExpressions {
			if q.Key == k {
				n++
				exact = exact || q.Operator != adds || len(q.Values) != 1
			}
		}
		if exact || n > 1 {
			r.Invalid(at.Index(i), k, "exists in both this list and labelSelector")
		}
	}
}

func spread(r *rule.Report, at *field.Path, list []v1.TopologySpreadConstraint) {
	type pair struct {
		key  string
		when v1.UnsatisfiableConstraintAction
	}
	seen := map[pair]bool{}
	for i := range list {
		c, at := &list[i], at.Index(i)
		r.Positive(at.Child("maxSkew"), int64(c.MaxSkew))
		if r.Required(at.Child("topologyKey"), c.TopologyKey != "", "can not be empty") {
			r.Add(metavalidation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
		}
		rule.OneOf(r, at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, v1.DoNotSchedule, v1.ScheduleAnyway)
		if p := (pair{c.TopologyKey, c.WhenUnsatisfiable}); seen[p] {
			r.Add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), "{"+p.key+", "+string(p.when)+"}"))
		} else {
			seen[p] = true
		}
		if n := c.MinDomains; n != nil {
			r.Between(at.Child("minDomains"), int64(*n), 1, math.MaxInt32)
			if c.WhenUnsatisfiable != v1.DoNotSchedule {
				r.Invalid(at.Child("minDomains"), *n, "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(c.WhenUnsatisfiable))
			}
		}
		rule.OneOfOptional(r, at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, v1.NodeInclusionPolicyIgnore, v1.NodeInclusionPolicyHonor)
		rule.OneOfOptional(r, at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, v1.NodeInclusionPolicyIgnore, v1.NodeInclusionPolicyHonor)
		r.Selector(at.Child("labelSelector"), c.LabelSelector)
		labelKeys(r, at.Child("matchLabelKeys"), c.MatchLabelKeys, c.LabelSelector, metav1.LabelSelectorOpIn)
	}
}
