// SPDX-License-Identifier: Apache-2.0

// Package auth is who may do what. It holds no code itself; its parts are
//
//	pki ──► keys, certificates, kubeconfigs (before anything runs)
//	request ─► authn (who is it?) ─► authz: node, rbac (may he?) ─► admission (is the object acceptable?)
//	              └─ tokens (service accounts, bootstrap)      └─ rbac.Escalation, node.Restriction run there
//
// Package controlplane/server puts them together. The tests here run them inside of a whole control plane.
package auth
