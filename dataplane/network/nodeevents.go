// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// reasonNoAddress is the reason of the event that tells of a node without a free pod address.
const reasonNoAddress = "PodAddressesExhausted"

// nodeEvents writes events on this node's Node object.
type nodeEvents struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	node        corev1.ObjectReference
}

// newNodeEvents starts a recorder; it ends with stop.
func newNodeEvents(ctx context.Context, client kubernetes.Interface, node string) *nodeEvents {
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return &nodeEvents{
		broadcaster: b,
		recorder:    b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "fairlead-network", Host: node}),
		// As the kubelet does it: a Node's events carry its name as UID.
		node: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)},
	}
}

func (e *nodeEvents) stop() { e.broadcaster.Shutdown() }

// exhausted tells that a pod was refused for want of an address. It does not block.
func (e *nodeEvents) exhausted(err error) {
	e.recorder.Eventf(&e.node, corev1.EventTypeWarning, reasonNoAddress,
		"A pod was refused: %v. Pods wait until others end; give the node a larger pod CIDR, or lower its maximum of pods.", err)
}
