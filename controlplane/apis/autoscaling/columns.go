// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"fmt"
	"strings"

	v2 "k8s.io/api/autoscaling/v2"
	apiresource "k8s.io/apimachinery/pkg/api/resource"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func columns() []resource.Column[*v2.HorizontalPodAutoscaler] {
	return column.Standard(
		column.Text("Reference", "Workload that is scaled.",
			func(h *v2.HorizontalPodAutoscaler) string {
				return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name
			}),
		column.Text("Targets", "Measured and wanted values.", targets),
		column.Text("MinPods", "Fewest pods.", func(h *v2.HorizontalPodAutoscaler) string {
			if h.Spec.MinReplicas == nil {
				return column.Unset
			}
			return fmt.Sprint(*h.Spec.MinReplicas)
		}),
		column.Int("MaxPods", "Most pods.", func(h *v2.HorizontalPodAutoscaler) int32 { return h.Spec.MaxReplicas }),
		column.Int("Replicas", "Pods there are.", func(h *v2.HorizontalPodAutoscaler) int32 { return h.Status.CurrentReplicas }),
	)
}

// targets shows the first two metrics as measured/wanted.
func targets(h *v2.HorizontalPodAutoscaler) string {
	if len(h.Spec.Metrics) == 0 {
		return column.None
	}
	var parts []string
	for i := range h.Spec.Metrics {
		var st *v2.MetricStatus
		if i < len(h.Status.CurrentMetrics) {
			st = &h.Status.CurrentMetrics[i]
		}
		parts = append(parts, target(&h.Spec.Metrics[i], st))
	}
	if len(parts) > 2 {
		return fmt.Sprintf("%s + %d more...", strings.Join(parts[:2], ", "), len(parts)-2)
	}
	return strings.Join(parts, ", ")
}

// target shows one metric; st is nil as long as nothing was measured.
func target(m *v2.MetricSpec, st *v2.MetricStatus) string {
	if st == nil {
		st = &v2.MetricStatus{}
	}
	var now v2.MetricValueStatus
	switch {
	case m.Type == v2.ExternalMetricSourceType && m.External != nil:
		if st.External != nil {
			now = st.External.Current
		}
		return amount(&m.External.Target, &now)
	case m.Type == v2.ObjectMetricSourceType && m.Object != nil:
		if st.Object != nil {
			now = st.Object.Current
		}
		return amount(&m.Object.Target, &now)
	case m.Type == v2.PodsMetricSourceType && m.Pods != nil:
		if st.Pods != nil {
			now = st.Pods.Current
		}
		return quantity(now.AverageValue) + "/" + quantity(m.Pods.Target.AverageValue)
	case m.Type == v2.ResourceMetricSourceType && m.Resource != nil:
		if st.Resource != nil {
			now = st.Resource.Current
		}
		return string(m.Resource.Name) + ": " + average(&m.Resource.Target, &now)
	case m.Type == v2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		if st.ContainerResource != nil {
			now = st.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + average(&m.ContainerResource.Target, &now)
	}
	return "<unknown type>"
}

func amount(want *v2.MetricTarget, now *v2.MetricValueStatus) string {
	if want.AverageValue != nil {
		return quantity(now.AverageValue) + "/" + quantity(want.AverageValue) + " (avg)"
	}
	return quantity(now.Value) + "/" + quantity(want.Value)
}

func average(want *v2.MetricTarget, now *v2.MetricValueStatus) string {
	if want.AverageValue != nil {
		return quantity(now.AverageValue) + "/" + quantity(want.AverageValue)
	}
	percent := func(n *int32, instead string) string {
		if n == nil {
			return instead
		}
		return fmt.Sprintf("%d%%", *n)
	}
	return percent(now.AverageUtilization, column.Unknown) + "/" + percent(want.AverageUtilization, "<auto>")
}

func quantity(q *apiresource.Quantity) string {
	if q == nil {
		return column.Unknown
	}
	return q.String()
}
