// SPDX-License-Identifier: Apache-2.0

// Package csrcleaner deletes certificate requests that have served their purpose: decided ones after an hour, undecided ones after a day, and those whose
// certificate has expired. It watches and deletes CertificateSigningRequests.
package csrcleaner

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

type loop struct {
	c        *controller.Context
	queue    *controller.Queue
	requests certlisters.CertificateSigningRequestLister
	synced   cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("certificate-controller", "certificate-controller")
	requests := c.Informers.Certificates().V1().CertificateSigningRequests()
	l := &loop{c: c, requests: requests.Lister(), synced: requests.Informer().HasSynced}
	l.queue = c.Queue("csrcleaner", l.sync)
	controller.On(requests.Informer(), l.queue.Enqueue)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, 1, l.synced)
}

// sync deletes a request whose time is over, or comes back when it will be.
func (l *loop) sync(ctx context.Context, name string) error {
	csr, err := l.requests.Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if wait := end(csr).Sub(l.c.Clock.Now()); wait > 0 {
		l.queue.AddAfter(name, wait)
		return nil
	}
	return controller.IgnoreNotFound(l.c.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &csr.UID},
	}))
}

// end is when a request has served its purpose.
func end(csr *certificatesv1.CertificateSigningRequest) time.Time {
	at := csr.CreationTimestamp.Add(keepPending)
	for _, c := range csr.Status.Conditions {
		// An approved request that waits for its signer counts as undecided.
		if c.Type == certificatesv1.CertificateApproved && len(csr.Status.Certificate) == 0 {
			continue
		}
		if t := c.LastUpdateTime.Add(keepDecided); t.Before(at) && !c.LastUpdateTime.IsZero() {
			at = t
		}
	}
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(at) {
			at = cert.NotAfter
		}
	}
	return at
}
