// SPDX-License-Identifier: Apache-2.0

// Package rbac is role-based access control: it answers whether a user's roles allow a request, keeps Kubernetes' default roles and
// bindings in the cluster, and stops users from granting what they do not have.
//
//	policy/*.policy ─► DefaultPolicy ─► Reconcile (at start) ─► Roles, ClusterRoles and bindings in the API
//	informers ─► Authorizer ─► Authorize, RulesFor
//	                └────────► Escalation (admission of roles and bindings)
//
// It denies nothing: what no role allows has no opinion, and the chain of authorizers ends in a refusal.
package rbac
