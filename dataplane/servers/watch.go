// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	// checkEvery is how often the server in use is asked whether it is ready, checkTimeout how long it may think, patience how often it may say no.
	checkEvery   = 5 * time.Second
	checkTimeout = 5 * time.Second
	patience     = 3

	serviceNamespace, serviceName = corev1.NamespaceDefault, "kubernetes"
)

// Run follows the endpoints of the Service default/kubernetes and leaves a server that is reachable but not ready, until ctx ends.
func (l *List) Run(ctx context.Context, client kubernetes.Interface) error {
	log := klog.FromContext(ctx).WithValues("component", "servers")
	watch := cache.NewListWatchFromClient(client.DiscoveryV1().RESTClient(), "endpointslices", serviceNamespace, fields.OneTermEqualSelector("metadata.name", serviceName))
	set := func(obj any) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return
		}
		if err := l.learn(addressesOf(slice)); err != nil {
			log.Error(err, "Cannot write down the API servers")
			return
		}
		log.V(2).Info("API servers", "servers", l.Known())
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: watch, ObjectType: &discoveryv1.EndpointSlice{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: set, UpdateFunc: func(_, obj any) { set(obj) }},
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		informer.RunWithContext(ctx)
	}()
	l.check(ctx, log, client)
	<-done
	return nil
}

func addressesOf(slice *discoveryv1.EndpointSlice) []string {
	var out []string
	for _, p := range slice.Ports {
		if p.Name == nil || *p.Name != "https" || p.Port == nil {
			continue
		}
		for _, e := range slice.Endpoints {
			for _, a := range e.Addresses {
				out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return out
}

// check leaves the server in use when it is not ready again and again, such as one whose etcd member is cut off from the others.
func (l *List) check(ctx context.Context, log klog.Logger, client kubernetes.Interface) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, checkTimeout)
		err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(asking).Error()
		cancel()
		if err == nil || ctx.Err() != nil {
			failures = 0
			continue
		}
		if failures++; failures < patience {
			continue
		}
		failures = 0
		if from, left := l.leave(time.Now()); left {
			log.Info("Left an API server that is not ready", "server", from, "reason", err.Error())
		}
	}
}
