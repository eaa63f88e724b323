// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// withTemplate adds the wide columns of a workload: containers, images and, when selector is given, the selector.
func withTemplate[T resource.Object](cols []resource.Column[T], spec func(T) *corev1.PodSpec, selector func(T) *metav1.LabelSelector) []resource.Column[T] {
	cols = append(cols, column.Containers(spec)...)
	if selector != nil {
		cols = append(cols, column.Wide(column.Text("Selector", "Labels of the pods that belong to it.",
			func(obj T) string { return metav1.FormatLabelSelector(selector(obj)) })))
	}
	return column.Standard(cols...)
}

func number(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func deploymentColumns() []resource.Column[*v1.Deployment] {
	return withTemplate([]resource.Column[*v1.Deployment]{
		column.Text("Ready", "Pods that are ready, of those wanted.",
			func(d *v1.Deployment) string {
				return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, number(d.Spec.Replicas))
			}),
		column.Int("Up-to-date", "Pods that have the present template.", func(d *v1.Deployment) int32 { return d.Status.UpdatedReplicas }),
		column.Int("Available", "Pods that have been ready for long enough.", func(d *v1.Deployment) int32 { return d.Status.AvailableReplicas }),
	}, func(d *v1.Deployment) *corev1.PodSpec { return &d.Spec.Template.Spec }, func(d *v1.Deployment) *metav1.LabelSelector { return d.Spec.Selector })
}

func replicaSetColumns() []resource.Column[*v1.ReplicaSet] {
	return withTemplate([]resource.Column[*v1.ReplicaSet]{
		column.Int("Desired", "Pods wanted.", func(r *v1.ReplicaSet) int32 { return number(r.Spec.Replicas) }),
		column.Int("Current", "Pods there are.", func(r *v1.ReplicaSet) int32 { return r.Status.Replicas }),
		column.Int("Ready", "Pods that are ready.", func(r *v1.ReplicaSet) int32 { return r.Status.ReadyReplicas }),
	}, func(r *v1.ReplicaSet) *corev1.PodSpec { return &r.Spec.Template.Spec }, func(r *v1.ReplicaSet) *metav1.LabelSelector { return r.Spec.Selector })
}

func statefulSetColumns() []resource.Column[*v1.StatefulSet] {
	return withTemplate([]resource.Column[*v1.StatefulSet]{
		column.Text("Ready", "Pods that are ready, of those wanted.",
			func(s *v1.StatefulSet) string {
				return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, number(s.Spec.Replicas))
			}),
	}, func(s *v1.StatefulSet) *corev1.PodSpec { return &s.Spec.Template.Spec }, nil)
}

func daemonSetColumns() []resource.Column[*v1.DaemonSet] {
	return withTemplate([]resource.Column[*v1.DaemonSet]{
		column.Int("Desired", "Nodes that should run a pod.", func(d *v1.DaemonSet) int32 { return d.Status.DesiredNumberScheduled }),
		column.Int("Current", "Nodes that run a pod and should.", func(d *v1.DaemonSet) int32 { return d.Status.CurrentNumberScheduled }),
		column.Int("Ready", "Nodes whose pod is ready.", func(d *v1.DaemonSet) int32 { return d.Status.NumberReady }),
		column.Int("Up-to-date", "Nodes whose pod has the present template.", func(d *v1.DaemonSet) int32 { return d.Status.UpdatedNumberScheduled }),
		column.Int("Available", "Nodes whose pod has been ready for long enough.", func(d *v1.DaemonSet) int32 { return d.Status.NumberAvailable }),
		column.Text("Node Selector", "Labels of the nodes that run a pod.",
			func(d *v1.DaemonSet) string { return labels.FormatLabels(d.Spec.Template.Spec.NodeSelector) }),
	}, func(d *v1.DaemonSet) *corev1.PodSpec { return &d.Spec.Template.Spec }, func(d *v1.DaemonSet) *metav1.LabelSelector { return d.Spec.Selector })
}

func controllerRevisionColumns() []resource.Column[*v1.ControllerRevision] {
	return column.Standard(
		column.Text("Controller", "Workload whose past the revision is.", func(r *v1.ControllerRevision) string {
			ref := metav1.GetControllerOf(r)
			if ref == nil {
				return column.None
			}
			gv, err := schema.ParseGroupVersion(ref.APIVersion)
			if err != nil {
				return ref.Name
			}
			return strings.ToLower(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}.String()) + "/" + ref.Name
		}),
		column.Int("Revision", "Number of the revision.", func(r *v1.ControllerRevision) int64 { return r.Revision }),
	)
}
