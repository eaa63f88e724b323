// SPDX-License-Identifier: Apache-2.0

// Package openapi holds the generated OpenAPI definitions of all built-in types; the API server publishes them under /openapi/v2 and
// /openapi/v3 and server-side apply reads its merge rules from them. Nothing is written here by hand.
package openapi

//go:generate ./generate.sh
