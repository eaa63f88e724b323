// SPDX-License-Identifier: Apache-2.0

// Package podworker carries out what sync.Next plans: one goroutine per pod decides, and each action of the plan runs in a goroutine of
// its own, so that a slow pull or a hanging hook of one container holds nothing else up.
//
//	Update (pod from the API) ─┐
//	Wake (CRI event, probe) ───┼─▶ loop: read CRI ─▶ sync.Next ─▶ start actions ─▶ status ─▶ wait
//	action done ───────────────┘
//
// The loop keeps nothing it could not read again from the API, from CRI or from the disk, but for back-off delays and results of probes.
package podworker
