// SPDX-License-Identifier: Apache-2.0

// Package tokens issues and checks the two kinds of tokens that a cluster makes itself: service-account tokens (JSON web tokens, signed
// with the key of package pki) and bootstrap tokens (Secrets in kube-system with which nodes join).
//
//	TokenRequest ─► REST ─► Issuer ─► JWT ─► pod, kubectl create token
//	JWT ─► Validator ─► signature, issuer, time, audience ─► the ServiceAccount, Pod, Node or Secret it is bound to still lives ─► user
//	Issuer ─► Discovery ─► /.well-known/openid-configuration, /openid/v1/jwks
//
// The private claims are those of Kubernetes ("kubernetes.io": namespace, serviceaccount, pod, secret, node, warnafter), so that tokens
// are understood by everything that reads Kubernetes' tokens.
package tokens
