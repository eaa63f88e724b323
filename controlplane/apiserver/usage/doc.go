// SPDX-License-Identifier: Apache-2.0

// Package usage serves metrics.k8s.io: what nodes and pods use now, for `kubectl top` and horizontal autoscaling. Nothing is stored and nothing
// runs in the background: a request asks the kubelets it needs for their /stats/summary, unless they said it a moment ago. An APIService of the
// same name that points to somebody else's metrics server takes this one's place.
package usage
