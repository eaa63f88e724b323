// SPDX-License-Identifier: Apache-2.0

// Package apiserver serves the Kubernetes API: k8s.io/apiserver, k8s.io/apiextensions-apiserver and k8s.io/kube-aggregator, fed with the
// declarations of controlplane/apis.
//
//	request --> aggregator (APIServices) --> extensions (CRDs) --> built-in kinds --> 404
//	                    |                          |                     |
//	                    +--------- one filter chain: authentication, audit, priority and fairness, authorization, admission
//	                                                                     |
//	                                            registry (one store per declaration) --> etcd
//
// Who may do what is not decided here: Config.Guards is asked for an authenticator, an authorizer and the admission chain, which may use a
// client of this very server. Where objects are kept is not decided here either: Config.Store points at an etcd.
//
// Subpackages: registry builds storage from declarations, core holds what the core kinds do beyond it (bind, evict, exec, ...), review answers
// TokenReview and SubjectAccessReview, bootstrap creates the objects that a cluster cannot be without.
package apiserver
