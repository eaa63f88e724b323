// SPDX-License-Identifier: Apache-2.0

// Package node limits what a node's credential (user system:node:NAME in group system:nodes) may do to its own Node object and to what
// the pods bound to it use. Two parts work together:
//
//	pods, volumes, attachments, slices ─► Index ─► Authorizer: may node N read secret S?  (is S used by a pod on N?)
//	writes of nodes ─► Restriction (admission): what of its own objects may N change?
//
// A stolen node credential therefore yields the secrets of that node's pods, not those of the cluster.
package node
