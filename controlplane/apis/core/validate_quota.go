// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// computeResources are what a quota can count of pods that have containers.
var computeResources = []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, v1.ResourceRequestsCPU, v1.ResourceRequestsMemory,
	v1.ResourceRequestsEphemeralStorage, v1.ResourceLimitsCPU, v1.ResourceLimitsMemory, v1.ResourceLimitsEphemeralStorage}

// quotaResource: what a quota can count by a name without domain.
func quotaResource(name v1.ResourceName) bool {
	switch name {
	case v1.ResourcePods, v1.ResourceQuotas, v1.ResourceServices, v1.ResourceReplicationControllers, v1.ResourceSecrets, v1.ResourceConfigMaps,
		v1.ResourcePersistentVolumeClaims, v1.ResourceServicesNodePorts, v1.ResourceServicesLoadBalancers, v1.ResourceRequestsStorage:
		return true
	}
	s := string(name)
	return slices.Contains(computeResources, name) || strings.HasPrefix(s, v1.ResourceHugePagesPrefix) || strings.HasPrefix(s, v1.ResourceRequestsHugePagesPrefix)
}

func quotaAmounts(r *rule.Report, at *field.Path, list v1.ResourceList) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		key := at.Key(string(name))
		podspec.ResourceName(r, key, name, quotaResource)
		q := list[name]
		podspec.Quantity(r, key, name, q)
	}
}

func validateResourceQuota(_ context.Context, q *v1.ResourceQuota) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("spec")
	quotaAmounts(r, path.Child("hard"), q.Spec.Hard)
	scopes := map[v1.ResourceQuotaScope]bool{}
	for i, s := range q.Spec.Scopes {
		quotaScope(r, path.Child("scopes").Index(i), s, q.Spec.Hard)
		if scopes[s] {
			r.Add(field.Duplicate(path.Child("scopes").Index(i), s))
		}
		scopes[s] = true
	}
	contradictory(r, path.Child("scopes"), scopes)
	if sel := q.Spec.ScopeSelector; sel != nil {
		selected := map[v1.ResourceQuotaScope]bool{}
		for i, x := range sel.MatchExpressions {
			at := path.Child("scopeSelector", "matchExpressions").Index(i)
			quotaScope(r, at.Child("scopeName"), x.ScopeName, q.Spec.Hard)
			selected[x.ScopeName] = true
			scopeOperator(r, at, x)
		}
		contradictory(r, path.Child("scopeSelector", "matchExpressions"), selected)
	}
	return r.Errors()
}

func quotaScope(r *rule.Report, at *field.Path, s v1.ResourceQuotaScope, hard v1.ResourceList) {
	rule.OneOf(r, at, s, v1.ResourceQuotaScopeTerminating, v1.ResourceQuotaScopeNotTerminating, v1.ResourceQuotaScopeBestEffort,
		v1.ResourceQuotaScopeNotBestEffort,
		v1.ResourceQuotaScopePriorityClass, v1.ResourceQuotaScopeCrossNamespacePodAffinity, v1.ResourceQuotaScopeVolumeAttributesClass)
	for _, name := range slices.Sorted(maps.Keys(hard)) {
		ok := name == v1.ResourcePods
		switch s {
		case v1.ResourceQuotaScopeBestEffort:
		case v1.ResourceQuotaScopeTerminating, v1.ResourceQuotaScopeNotTerminating, v1.ResourceQuotaScopeNotBestEffort:
			ok = ok || slices.Contains(computeResources, name)
		case v1.ResourceQuotaScopeVolumeAttributesClass:
			ok = name == v1.ResourcePersistentVolumeClaims || name == v1.ResourceRequestsStorage
		default:
			ok = true
		}
		if !ok {
			r.Invalid(at, s, "unsupported scope applied to resource "+string(name))
		}
	}
}

func scopeOperator(r *rule.Report, at *field.Path, x v1.ScopedResourceSelectorRequirement) {
	switch x.ScopeName {
	case v1.ResourceQuotaScopePriorityClass, v1.ResourceQuotaScopeVolumeAttributesClass:
	default:
		if x.Operator != v1.ScopeSelectorOpExists {
			r.Invalid(at.Child("operator"), x.Operator, "must be 'Exists' for scope "+string(x.ScopeName))
		}
	}
	switch x.Operator {
	case v1.ScopeSelectorOpIn, v1.ScopeSelectorOpNotIn:
		r.Required(at.Child("values"), len(x.Values) > 0, "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
	case v1.ScopeSelectorOpExists, v1.ScopeSelectorOpDoesNotExist:
		if len(x.Values) > 0 {
			r.Invalid(at.Child("values"), x.Values, "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector")
		}
	default:
		r.Invalid(at.Child("operator"), x.Operator, "not a valid selector operator")
	}
}

func contradictory(r *rule.Report, at *field.Path, scopes map[v1.ResourceQuotaScope]bool) {
	for _, pair := range [][2]v1.ResourceQuotaScope{
		{v1.ResourceQuotaScopeBestEffort, v1.ResourceQuotaScopeNotBestEffort}, {v1.ResourceQuotaScopeTerminating, v1.ResourceQuotaScopeNotTerminating},
	} {
		if scopes[pair[0]] && scopes[pair[1]] {
			r.Invalid(at, string(pair[0])+","+string(pair[1]), "conflicting scopes")
		}
	}
}

func validateResourceQuotaUpdate(_ context.Context, q, old *v1.ResourceQuota) field.ErrorList {
	r := &rule.Report{}
	set := func(list []v1.ResourceQuotaScope) []v1.ResourceQuotaScope {
		return slices.Compact(slices.Sorted(slices.Values(list)))
	}
	if !slices.Equal(set(q.Spec.Scopes), set(old.Spec.Scopes)) {
		r.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, "field is immutable")
	}
	if !equality.Semantic.DeepEqual(q.Spec.ScopeSelector, old.Spec.ScopeSelector) {
		r.Invalid(field.NewPath("spec", "scopeSelector"), q.Spec.ScopeSelector, "field is immutable")
	}
	return r.Errors()
}

func validateResourceQuotaStatus(_ context.Context, q, _ *v1.ResourceQuota) field.ErrorList {
	r := &rule.Report{}
	quotaAmounts(r, field.NewPath("status", "hard"), q.Status.Hard)
	quotaAmounts(r, field.NewPath("status", "used"), q.Status.Used)
	return r.Errors()
}

func validateLimitRange(_ context.Context, l *v1.LimitRange) field.ErrorList {
	r := &rule.Report{}
	types := map[v1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		if r.Required(at.Child("type"), item.Type != "", "") {
			switch item.Type {
			case v1.LimitTypePod, v1.LimitTypeContainer, v1.LimitTypePersistentVolumeClaim:
			default:
				r.Invalid(at.Child("type"), item.Type, strings.Join(append(validation.IsQualifiedName(string(item.Type)), notQualified(string(item.Type))...), "; "))
			}
		}
		if types[item.Type] {
			r.Add(field.Duplicate(at.Child("type"), item.Type))
		}
		types[item.Type] = true
		limitItem(r, at, item)
	}
	return r.Errors()
}

func notQualified(name string) []string {
	if strings.Contains(name, "/") {
		return nil
	}
	return []string{"must be a standard limit type or fully qualified"}
}

// limitItem reports amounts that contradict each other: min <= defaultRequest <= default <= max, and no ratio below one or that none can meet.
func limitItem(r *rule.Report, at *field.Path, item *v1.LimitRangeItem) {
	names := map[v1.ResourceName]bool{}
	for _, l := range []struct {
		name string
		list v1.ResourceList
	}{{"max", item.Max}, {"min", item.Min}, {"default", item.Default}, {"defaultRequest", item.DefaultRequest}, {"maxLimitRequestRatio",
		item.MaxLimitRequestRatio}} {
		for name, q := range l.list {
			names[name] = true
			key := at.Child(l.name).Key(string(name))
			podspec.ResourceName(r, key, name, func(n v1.ResourceName) bool { return quotaResource(n) || n == v1.ResourceStorage })
			if q.Sign() < 0 {
				r.Invalid(key, q.String(), "must be greater than or equal to 0")
			}
		}
	}
	if item.Type == v1.LimitTypePod {
		r.Forbidden(at.Child("default"), len(item.Default) > 0, "may not be specified when `type` is 'Pod'")
		r.Forbidden(at.Child("defaultRequest"), len(item.DefaultRequest) > 0, "may not be specified when `type` is 'Pod'")
	}
	if item.Type == v1.LimitTypePersistentVolumeClaim {
		_, min := item.Min[v1.ResourceStorage]
		_, max := item.Max[v1.ResourceStorage]
		r.Required(at, min || max, "either minimum or maximum storage value is required, but neither was provided")
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for _, pair := range []struct {
			field             string // which of the two is told to be wrong
			low, high         v1.ResourceList
			lowWord, highWord string
		}{
			{"min", item.Min, item.Max, "min", "max"},
			{"defaultRequest", item.Min, item.DefaultRequest, "min", "default request"},
			{"defaultRequest", item.DefaultRequest, item.Max, "default request", "max"},
			{"defaultRequest", item.DefaultRequest, item.Default, "default request", "default limit"},
			{"default", item.Min, item.Default, "min", "default"},
			{"default", item.Default, item.Max, "default", "max"},
		} {
			low, ok := pair.low[name]
			high, also := pair.high[name]
			if ok && also && low.Cmp(high) > 0 {
				wrong := map[string]v1.ResourceList{"min": item.Min, "default": item.Default, "defaultRequest": item.DefaultRequest}[pair.field][name]
				r.Invalid(at.Child(pair.field).Key(string(name)), wrong.String(),
					pair.lowWord+" value "+low.String()+" is greater than "+pair.highWord+" value "+high.String())
			}
		}
		ratio, ok := item.MaxLimitRequestRatio[name]
		if !ok {
			continue
		}
		key := at.Child("maxLimitRequestRatio").Key(string(name))
		if ratio.MilliValue() < 1000 {
			r.Invalid(key, ratio.String(), "ratio "+ratio.String()+" is less than 1")
		}
		min, hasMin := item.Min[name]
		max, hasMax := item.Max[name]
		if hasMin && hasMax && min.Sign() > 0 {
			if best := max.AsApproximateFloat64() / min.AsApproximateFloat64(); ratio.AsApproximateFloat64() > best {
				r.Invalid(key, ratio.String(), "ratio is greater than max/min")
			}
		}
	}
}
