// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// ControlPlaneRole labels the nodes that run a control plane, as kubeadm does; kubectl shows it as the node's role. A node may not set it on itself
// (NodeRestriction).
const ControlPlaneRole = "node-role.kubernetes.io/control-plane"

const roleResync = 30 * time.Second // after which a label that could not be written is tried again

// KeepRole labels the node called name with ControlPlaneRole whenever it lacks the label, until ctx ends.
func KeepRole(ctx context.Context, client kubernetes.Interface, name string) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, roleResync, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}))
	mark := func(obj any) {
		node, ok := obj.(*corev1.Node)
		if !ok || node.Name != name {
			return
		}
		if _, has := node.Labels[ControlPlaneRole]; has {
			return
		}
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:""}}}`, ControlPlaneRole)
		if _, err := client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Could not label this server's node; trying again", "node", name, "label", ControlPlaneRole, "after", roleResync)
		}
	}
	_, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    mark,
		UpdateFunc: func(_, obj any) { mark(obj) },
	})
	if err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	<-ctx.Done()
	factory.Shutdown()
	return nil
}
