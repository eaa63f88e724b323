// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// podStages is where the time of a pod's start goes: image (looked up or pulled), sandbox (with its network), container (made and
// started), running (all, from when the kubelet first saw the pod until its status says Running).
var podStages = promauto.NewHistogramVec(prometheus.HistogramOpts{
	Name: "fairlead_kubelet_pod_start_stage_seconds", Help: "Time of the stages of pods' starts.",
	Buckets: []float64{.005, .01, .025, .05, .1, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300},
}, []string{"stage"})

func observeStage(stage string, took time.Duration) {
	podStages.WithLabelValues(stage).Observe(took.Seconds())
}
