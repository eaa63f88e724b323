// SPDX-License-Identifier: Apache-2.0

// Package registry builds REST storage from declarations: one resource.Resource in, the main resource and its status and scale subresources out.
//
//	resource.Resource --> strategy (prepare, validate, generation, reset fields) --+
//	                  --> attributes (field selectors, indexes)                    +--> genericregistry.Store --> etcd
//	                  --> table (server-side columns)                            --+
//
// It knows no particular kind. Kinds that need more (pod binding, service addresses, namespace finalization) wrap what Build returns, in their own
// packages.
package registry
