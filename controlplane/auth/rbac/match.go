// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// RulesAllow reports whether one of rules allows the request.
func RulesAllow(rules []rbacv1.PolicyRule, request authorizer.Attributes) bool {
	for i := range rules {
		if ruleAllows(&rules[i], request) {
			return true
		}
	}
	return false
}

func ruleAllows(r *rbacv1.PolicyRule, request authorizer.Attributes) bool {
	if !has(r.Verbs, rbacv1.VerbAll, request.GetVerb()) {
		return false
	}
	if !request.IsResourceRequest() {
		return slices.ContainsFunc(r.NonResourceURLs, func(pattern string) bool { return urlMatches(pattern, request.GetPath()) })
	}
	return has(r.APIGroups, rbacv1.APIGroupAll, request.GetAPIGroup()) &&
		resourceMatches(r.Resources, request.GetResource(), request.GetSubresource()) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, request.GetName()))
}

// resourceMatches knows four forms: * (everything), resource, resource/subresource, */subresource.
func resourceMatches(patterns []string, resource, subresource string) bool {
	full := resource
	if subresource != "" {
		full += "/" + subresource
	}
	for _, p := range patterns {
		if p == rbacv1.ResourceAll || p == full || subresource != "" && strings.HasPrefix(p, "*/") && p[2:] == subresource {
			return true
		}
	}
	return false
}

// urlMatches compares path with pattern, in which a trailing * stands for any rest.
func urlMatches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}

func has(list []string, all, want string) bool {
	return slices.Contains(list, all) || slices.Contains(list, want)
}
