// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// reported are the conditions that only the kubelet knows: without it they are unknown.
var reported = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// markUnknown sets the conditions of a silent node to Unknown and returns the node as it then is.
func (l *loop) markUnknown(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	updated, changed := node.DeepCopy(), false
	now := metav1.NewTime(l.c.Clock.Now())
	for _, t := range reported {
		c := condition(updated, t)
		switch {
		case c == nil:
			updated.Status.Conditions = append(updated.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
			changed = true
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", now
			changed = true
		}
	}
	if !changed {
		return node, nil
	}
	result, err := l.c.Client.CoreV1().Nodes().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	l.c.Events.Eventf(&corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}, corev1.EventTypeNormal, "NodeNotReady",
		"Node %s status is now: NodeNotReady", node.Name)
	return result, nil
}

// markPods takes the pods of a node that is not ready out of service: nobody else can, when the kubelet does not.
func (l *loop) markPods(ctx context.Context, node *corev1.Node) error {
	pods := controller.Filter(l.podsOn(node.Name), controller.Ready)
	errs := controller.Parallel(len(pods), func(i int) error {
		pod := pods[i].DeepCopy()
		c := controller.PodCondition(pod, corev1.PodReady)
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(l.c.Clock.Now())
		if _, err := l.c.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		}
		l.c.Events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		return nil
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
