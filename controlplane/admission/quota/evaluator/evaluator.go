// SPDX-License-Identifier: Apache-2.0

// Package evaluator measures what objects use of a ResourceQuota. Admission (before an object is written) and the resource-quota controller
// (afterwards, over all objects of a namespace) share it, so it knows neither of them and nothing of the API server.
//
//	object ─► Evaluator.Usage ─► ResourceList ─► quota.Add ─► compare with spec.hard
//
// Pods, services, volume claims and device claims are measured here; every other kind is counted ("count/deployments.apps").
package evaluator

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/utils/clock"
)

// All returns the evaluators of the built-in kinds. list gives the lister from which UsageStats reads; it may be nil where UsageStats is
// not called (admission).
func All(list quota.ListerForResourceFunc, clk clock.PassiveClock) []quota.Evaluator {
	if list == nil {
		list = noLister
	}
	out := []quota.Evaluator{
		newEvaluator(list, corev1.SchemeGroupVersion.WithResource("pods"), podRules(clk)),
		newEvaluator(list, corev1.SchemeGroupVersion.WithResource("services"), serviceRules()),
		newEvaluator(list, corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), claimRules()),
		newEvaluator(list, deviceClaims, deviceClaimRules()),
	}
	// These had names of their own before everything could be counted.
	for _, r := range []string{"configmaps", "resourcequotas", "replicationcontrollers", "secrets"} {
		gvr := corev1.SchemeGroupVersion.WithResource(r)
		out = append(out, generic.NewObjectCountEvaluator(gvr.GroupResource(), generic.ListResourceUsingListerFunc(list, gvr), corev1.ResourceName(r)))
	}
	return out
}

// Ignored are the resources that no quota limits: questions that store nothing, and events.
func Ignored() map[schema.GroupResource]struct{} {
	out := map[schema.GroupResource]struct{}{}
	for _, r := range []schema.GroupResource{
		{Resource: "bindings"}, {Resource: "componentstatuses"}, {Resource: "events"}, {Group: "events.k8s.io", Resource: "events"},
		{Group: "authentication.k8s.io", Resource: "tokenreviews"}, {Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
		{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}, {Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}, {Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
	} {
		out[r] = struct{}{}
	}
	return out
}

func noLister(gvr schema.GroupVersionResource) (lister, error) {
	return nil, &noListerError{gvr}
}

// rules is what differs from kind to kind.
type rules struct {
	handles     func(a admission.Attributes) bool
	matching    func(name corev1.ResourceName) bool                                                // names that this kind uses
	usage       func(obj runtime.Object) (corev1.ResourceList, error)                              // besides the count of the object
	scope       func(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) // is obj within s?
	constraints func(required []corev1.ResourceName, obj runtime.Object) error                     // must obj name its needs?
}

type evaluator struct {
	gvr   schema.GroupVersionResource
	list  generic.ListFuncByNamespace
	rules rules
}

func newEvaluator(list quota.ListerForResourceFunc, gvr schema.GroupVersionResource, r rules) quota.Evaluator {
	if r.scope == nil {
		r.scope = generic.MatchesNoScopeFunc
	}
	return &evaluator{gvr: gvr, list: generic.ListResourceUsingListerFunc(list, gvr), rules: r}
}

func (e *evaluator) count() corev1.ResourceName {
	return generic.ObjectCountQuotaResourceNameFor(e.gvr.GroupResource())
}

func (e *evaluator) GroupResource() schema.GroupResource { return e.gvr.GroupResource() }
func (e *evaluator) Handles(a admission.Attributes) bool { return e.rules.handles(a) }
func (e *evaluator) Constraints(required []corev1.ResourceName, obj runtime.Object) error {
	if e.rules.constraints == nil {
		return nil
	}
	return e.rules.constraints(required, obj)
}

func (e *evaluator) Matches(q *corev1.ResourceQuota, obj runtime.Object) (bool, error) {
	return generic.Matches(q, obj, e.MatchingResources, e.rules.scope)
}

func (e *evaluator) MatchingResources(names []corev1.ResourceName) (out []corev1.ResourceName) {
	for _, n := range names {
		if n == e.count() || e.rules.matching(n) {
			out = append(out, n)
		}
	}
	return out
}

func (e *evaluator) MatchingScopes(obj runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) (out []corev1.ScopedResourceSelectorRequirement,
	err error) {
	for _, s := range scopes {
		ok, err := e.rules.scope(s, obj)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// UncoveredQuotaScopes returns those of limited that no matched quota covers.
func (e *evaluator) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) (out []corev1.ScopedResourceSelectorRequirement,
	err error) {
	for _, l := range limited {
		covered := false
		for _, m := range matched {
			covered = covered || m.ScopeName == l.ScopeName
		}
		if !covered {
			out = append(out, l)
		}
	}
	return out, nil
}

func (e *evaluator) Usage(obj runtime.Object) (corev1.ResourceList, error) {
	used, err := e.rules.usage(obj)
	if err != nil {
		return nil, err
	}
	if used == nil {
		used = corev1.ResourceList{}
	}
	used[e.count()] = one()
	return used, nil
}

func (e *evaluator) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(options, e.list, e.rules.scope, e.Usage)
}

func one() resource.Quantity           { return *resource.NewQuantity(1, resource.DecimalSI) }
func number(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

// onWrite handles creation, and updates when update is true, of the object itself.
func onWrite(update bool) func(admission.Attributes) bool {
	return func(a admission.Attributes) bool {
		return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || update && a.GetOperation() == admission.Update)
	}
}
