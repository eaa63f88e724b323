// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Reasons of the events that this node's load balancer writes on Services, and on Pods for their host ports.
const (
	reasonNotProgrammed = "NotProgrammed"
	reasonProgrammed    = "Programmed"
)

// problem is what the load balancer says about one service; err nil: there is none any more.
type problem struct {
	name tables.Name
	err  error
}

// serviceEvents turns the load balancer's complaints into events on the objects that they are about, from every node that cannot do as they say.
type serviceEvents struct {
	client   kubernetes.Interface
	tables   *tables.Tables
	nodeName string
	queue    chan problem
}

// pendingEvents bounds what waits for the API server; what comes on top is dropped, since events are hints (the log has all).
const pendingEvents = 256

func newServiceEvents(client kubernetes.Interface, t *tables.Tables, nodeName string) *serviceEvents {
	return &serviceEvents{client: client, tables: t, nodeName: nodeName, queue: make(chan problem, pendingEvents)}
}

// report is loadbalancer.Config.OnServiceError. It does not block.
func (e *serviceEvents) report(name tables.Name, err error) {
	select {
	case e.queue <- problem{name, err}:
	default:
	}
}

// run writes events until ctx ends.
func (e *serviceEvents) run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: e.client.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "fairlead-loadbalancer", Host: e.nodeName})
	log := klog.FromContext(ctx).WithName("events")
	for {
		var p problem
		select {
		case <-ctx.Done():
			return nil
		case p = <-e.queue:
		}
		about, err := e.object(ctx, p.name)
		switch {
		case apierrors.IsNotFound(err) || err == nil && about == nil: // deleted meanwhile
		case err != nil:
			log.Error(err, "look up what an event is about", "service", p.name.String())
		case p.err != nil:
			recorder.Eventf(about, corev1.EventTypeWarning, reasonNotProgrammed, "node %s: %v", e.nodeName, p.err)
		default:
			recorder.Eventf(about, corev1.EventTypeNormal, reasonProgrammed, "node %s: programmed as it says", e.nodeName)
		}
	}
}

// object returns the Service, or the Pod whose host ports the name stands for; nil if there is none.
func (e *serviceEvents) object(ctx context.Context, name tables.Name) (*corev1.ObjectReference, error) {
	if id, ok := loadbalancer.HostPortsPod(name); ok {
		pod, _, found := e.tables.LocalPods.Get(e.tables.DB.ReadTxn(), tables.LocalPodByID.Query(id))
		if !found || pod.Name == "" {
			return nil, nil
		}
		return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)}, nil
	}
	svc, err := e.client.CoreV1().Services(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID, ResourceVersion: svc.ResourceVersion,
	}, nil
}
