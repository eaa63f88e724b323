// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	resourcelisters "k8s.io/client-go/listers/resource/v1"

	"github.com/fairlead/fairlead/controlplane/auth/rbac"
)

// Authorizer allows a node what its pods need. It has no opinion about other users, and none about what it does not allow.
type Authorizer struct {
	authorizer.AuthorizerFunc
	index  *Index
	rules  []rbacv1.PolicyRule
	slices resourcelisters.ResourceSliceLister // nil: nodes publish no devices
}

// NewAuthorizer returns the authorizer. rules are those of the role system:node; they bound what is allowed in any case.
func NewAuthorizer(index *Index, rules []rbacv1.PolicyRule, slices resourcelisters.ResourceSliceLister) *Authorizer {
	a := &Authorizer{index: index, rules: rules, slices: slices}
	a.AuthorizerFunc = a.authorize
	return a
}

// RulesFor returns nothing: what a node may do depends on its pods, which rules cannot say.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, ok := Identify(u); ok {
		return nil, nil, true, fmt.Errorf("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

func (a *Authorizer) authorize(_ context.Context, r authorizer.Attributes) (authorizer.Decision, string, error) {
	node, ok := Identify(r.GetUser())
	if !ok {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if !rbac.RulesAllow(a.rules, r) {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if why := a.refuse(node, r); why != "" {
		return authorizer.DecisionNoOpinion, why, nil
	}
	return authorizer.DecisionAllow, "", nil
}

// refuse says why node may not do r, which its rules would allow, or "".
func (a *Authorizer) refuse(node string, r authorizer.Attributes) string {
	if !r.IsResourceRequest() {
		return ""
	}
	verb, name, namespace, sub := r.GetVerb(), r.GetName(), r.GetNamespace(), r.GetSubresource()
	unrelated := fmt.Sprintf("no relationship found between node %q and this object", node)
	needs := func(related bool) string {
		if name != "" && related {
			return ""
		}
		return unrelated
	}
	switch r.GetAPIGroup() + "/" + r.GetResource() {
	case "/secrets", "/configmaps", "/persistentvolumeclaims", "/serviceaccounts", "resource.k8s.io/resourceclaims":
		return needs(namespace != "" && a.index.uses(node, object{r.GetResource(), namespace, name}))
	case "/persistentvolumes":
		return needs(a.index.usesVolume(node, name))
	case "storage.k8s.io/volumeattachments":
		return needs(a.index.attachedTo(node, name))
	case "storage.k8s.io/csinodes":
		return ownOrCreate(node, verb, name, "CSINode")
	case "coordination.k8s.io/leases":
		if namespace != corev1.NamespaceNodeLease {
			return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		}
		return ownOrCreate(node, verb, name, "lease")
	case "resource.k8s.io/resourceslices":
		return a.refuseSlice(node, r)
	case "/nodes":
		if slices.Contains([]string{"get", "list", "watch"}, verb) && name != node && !selects(r, "metadata.name", node) {
			return fmt.Sprintf("node %q cannot read other nodes, only its own Node object", node)
		}
	case "/pods":
		switch {
		case sub != "" || verb == "create" || verb == "delete": // bounded by admission
		case name != "":
			return needs(a.index.podOn(node, namespace, name))
		case !selects(r, "spec.nodeName", node):
			return fmt.Sprintf("can only list/watch pods with spec.nodeName field selector %q", node)
		}
	}
	return ""
}

func (a *Authorizer) refuseSlice(node string, r authorizer.Attributes) string {
	switch r.GetVerb() {
	case "create": // bounded by admission
		return ""
	case "list", "watch", "deletecollection":
		if selects(r, "spec.nodeName", node) {
			return ""
		}
		return "can only list/watch/deletecollection resourceslices with spec.nodeName field selector"
	}
	if a.slices != nil && r.GetName() != "" {
		if s, err := a.slices.Get(r.GetName()); err == nil && s.Spec.NodeName != nil && *s.Spec.NodeName == node {
			return ""
		}
	}
	return fmt.Sprintf("resource slice %q is not of node %q", r.GetName(), node)
}

func ownOrCreate(node, verb, name, kind string) string {
	if verb == "create" || name == node { // on create the name is in the body: admission compares it
		return ""
	}
	return fmt.Sprintf("can only access %s with the same name as the requesting node", kind)
}

// selects reports whether the request is limited to objects whose field is value.
func selects(r authorizer.Attributes, field, value string) bool {
	requirements, err := r.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, q := range requirements {
		if q.Field == field && q.Value == value && (q.Operator == "=" || q.Operator == "==") {
			return true
		}
	}
	return false
}
