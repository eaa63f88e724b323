// SPDX-License-Identifier: Apache-2.0

// Package server puts a control plane together in one process: keys, store, API server, and whatever components the caller hands in.
//
//	Config --> Run:  pki --> store --> apiserver (with auth and admission as its guards) --> /readyz --> OnReady --> Components
//	                  |                                                                                                 |
//	                  +-- renews certificates and kubeconfigs while everything runs       each gets Env: a client configuration, keys, ranges
//
// Entry points: Config (every field has a default but may be set from YAML), Run (blocks until ctx ends, then stops components, drains requests,
// closes the store), Component (a name and a function that blocks until its ctx ends) and Env. A process that runs a component alone, against an
// API server elsewhere, makes an Env itself from a kubeconfig.
package server
