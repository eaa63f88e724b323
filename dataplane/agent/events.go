// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// reasonBrokenArchive is the reason of the event that names an image archive that was not imported.
const reasonBrokenArchive = "ImageArchiveNotImported"

// archiveEvents returns what tells the cluster, by events on the node, of image archives that cannot be imported; stop ends it.
func archiveEvents(ctx context.Context, client kubernetes.Interface, nodeName string) (tell func(file string, err error), stop func()) {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "fairlead-agent", Host: nodeName})
	// The name in place of the UID, as the kubelet's events on nodes have it: that is what `kubectl describe node` looks for.
	node := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: nodeName, UID: types.UID(nodeName)}
	return func(file string, err error) {
		const longest = 1024 // of a message
		message := fmt.Sprintf("Image archive %s was not imported: %v", filepath.Base(file), err)
		recorder.Event(node, corev1.EventTypeWarning, reasonBrokenArchive, message[:min(len(message), longest)])
	}, broadcaster.Shutdown
}
