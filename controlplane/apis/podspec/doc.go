// SPDX-License-Identifier: Apache-2.0

// Package podspec knows what a PodSpec defaults to and which rules it obeys. Pods, pod templates and every workload that carries a template
// (core, apps, batch) share it, so that a template is refused for the same reason and at the same field path as the pod it would become.
//
//	defaults.go, defaults_volumes.go   what an unset field means
//	validate.go                        the pod as a whole; calls the files by subject: containers, volumes, probes, scheduling, ...
//	validate_update.go                 what may change in a running pod
package podspec
