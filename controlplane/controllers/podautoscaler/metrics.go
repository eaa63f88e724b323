// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"context"
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// metrics is where values come from, in thousandths.
type metrics interface {
	// resource is what pods use of a resource: all their containers, or the one named.
	resource(ctx context.Context, namespace string, selector labels.Selector, name corev1.ResourceName, container string) (map[string]sample, error)
	pods(namespace string, selector labels.Selector, metric string, metricSelector labels.Selector) (map[string]sample, error)
	object(namespace string, ref *autoscalingv2.CrossVersionObjectReference, metric string, metricSelector labels.Selector) (int64, error)
	// external is the sum over all series.
	external(namespace, metric string, metricSelector labels.Selector) (int64, error)
}

type apis struct {
	usage  metricsclient.Interface
	custom custom_metrics.CustomMetricsClient
	extern external_metrics.ExternalMetricsClient
	failed error
}

// newMetrics returns clients of the three metrics APIs, which are served by whoever registered them.
func newMetrics(c *controller.Context) metrics {
	if c.RESTConfig == nil {
		return &apis{failed: errors.New("there is no API server to read metrics from")}
	}
	a := &apis{}
	if a.usage, a.failed = metricsclient.NewForConfig(c.RESTConfig); a.failed != nil {
		return a
	}
	a.custom = custom_metrics.NewForConfig(c.RESTConfig, c.Mapper, custom_metrics.NewAvailableAPIsGetter(c.Discovery))
	a.extern, a.failed = external_metrics.NewForConfig(c.RESTConfig)
	return a
}

func (a *apis) resource(ctx context.Context, namespace string, selector labels.Selector, name corev1.ResourceName, container string) (map[string]sample, error) {
	if a.failed != nil {
		return nil, a.failed
	}
	list, err := a.usage.MetricsV1beta1().PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	out := map[string]sample{}
	for _, pod := range list.Items {
		x, complete, found := sample{at: pod.Timestamp.Time, window: pod.Window.Duration}, true, false
		for _, c := range pod.Containers {
			if container != "" && c.Name != container {
				continue
			}
			q, ok := c.Usage[name]
			x.value, complete, found = x.value+q.MilliValue(), complete && ok, true
		}
		if complete && found {
			out[pod.Name] = x
		}
	}
	return out, nil
}

func (a *apis) pods(namespace string, selector labels.Selector, metric string, metricSelector labels.Selector) (map[string]sample, error) {
	if a.failed != nil {
		return nil, a.failed
	}
	list, err := a.custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, selector, metric, metricSelector)
	if err != nil {
		return nil, err
	}
	out := map[string]sample{}
	for _, v := range list.Items {
		out[v.DescribedObject.Name] = sample{value: v.Value.MilliValue(), at: v.Timestamp.Time}
	}
	if len(out) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	return out, nil
}

func (a *apis) object(namespace string, ref *autoscalingv2.CrossVersionObjectReference, metric string, metricSelector labels.Selector) (int64, error) {
	if a.failed != nil {
		return 0, a.failed
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return 0, err
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	if kind.Kind == "Namespace" && kind.Group == "" {
		v, err := a.custom.RootScopedMetrics().GetForObject(kind, namespace, metric, metricSelector)
		if err != nil {
			return 0, err
		}
		return v.Value.MilliValue(), nil
	}
	v, err := a.custom.NamespacedMetrics(namespace).GetForObject(kind, ref.Name, metric, metricSelector)
	if err != nil {
		return 0, err
	}
	return v.Value.MilliValue(), nil
}

func (a *apis) external(namespace, metric string, metricSelector labels.Selector) (int64, error) {
	if a.failed != nil {
		return 0, a.failed
	}
	list, err := a.extern.NamespacedMetrics(namespace).List(metric, metricSelector)
	if err != nil {
		return 0, err
	}
	if len(list.Items) == 0 {
		return 0, fmt.Errorf("no series of the external metric %s match", metric)
	}
	var sum int64
	for _, v := range list.Items {
		sum += v.Value.MilliValue()
	}
	return sum, nil
}
