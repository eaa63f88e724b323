// SPDX-License-Identifier: Apache-2.0

// Package podcertificatecleaner deletes PodCertificateRequests a quarter of an hour after they were made: by then their kubelet has taken the certificate, or asked again.
// It watches and deletes PodCertificateRequests. It signs none: see docs/controllers.md.
package podcertificatecleaner

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const keep = 15 * time.Minute

type loop struct {
	c        *controller.Context
	queue    *controller.Queue
	requests certlisters.PodCertificateRequestLister
	synced   cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("podcertificaterequestcleaner-controller", "podcertificaterequestcleaner-controller")
	requests := c.Informers.Certificates().V1().PodCertificateRequests()
	l := &loop{c: c, requests: requests.Lister(), synced: requests.Informer().HasSynced}
	l.queue = c.Queue("podcertificatecleaner", l.sync)
	controller.Watch(requests.Informer(), func(old, obj any) {
		if old == nil {
			l.queue.Enqueue(obj)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, 1, l.synced)
}

// sync deletes a request whose time is over, or comes back when it will be.
func (l *loop) sync(ctx context.Context, key string) error {
	namespace, name := controller.SplitKey(key)
	r, err := l.requests.PodCertificateRequests(namespace).Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if left := r.CreationTimestamp.Add(keep).Sub(l.c.Clock.Now()); left > 0 {
		l.queue.AddAfter(key, left)
		return nil
	}
	return controller.IgnoreNotFound(l.c.Client.CertificatesV1().PodCertificateRequests(namespace).Delete(ctx, name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &r.UID},
	}))
}
