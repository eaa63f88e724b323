// SPDX-License-Identifier: Apache-2.0

// Package cluster holds the test that is the only thing on a virtual machine whose cgroups are version 2 only: one production node, as a person
// starts it.
package cluster
