// SPDX-License-Identifier: Apache-2.0

// Package csrsigning signs approved certificate requests of the signers that Kubernetes defines for a cluster's own certificates.
//
// It watches CertificateSigningRequests. It writes their certificate, or the Failed condition when an approved request breaks its signer's rules. Without a
// certificate authority in the settings it does nothing.
package csrsigning

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	defaultDuration = 365 * 24 * time.Hour
	minDuration     = 10 * time.Minute
	// backdate allows for clocks of clients that are behind.
	backdate = 5 * time.Minute
)

type loop struct {
	c        *controller.Context
	queue    *controller.Queue
	requests certlisters.CertificateSigningRequestLister
	synced   cache.InformerSynced
	ca       *x509.Certificate // nil: signs nothing
	key      crypto.Signer
	failed   error
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("certificate-controller", "certificate-controller")
	requests := c.Informers.Certificates().V1().CertificateSigningRequests()
	l := &loop{c: c, requests: requests.Lister(), synced: requests.Informer().HasSynced}
	l.queue = c.Queue("csrsigning", l.sync)
	l.failed = l.load(c.Settings.SigningCert, c.Settings.SigningKey)
	controller.On(requests.Informer(), l.queue.Enqueue)
	return l
}

func (l *loop) load(cert, key []byte) error {
	if len(cert) == 0 || len(key) == 0 {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("the signing certificate and key: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("the signing key of type %T cannot sign", pair.PrivateKey)
	}
	l.ca, l.key = pair.Leaf, signer
	return nil
}

func (l *loop) Run(ctx context.Context) error {
	if l.failed != nil {
		return l.failed
	}
	if l.ca == nil {
		<-ctx.Done()
		return nil
	}
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced)
}

// sync signs one approved request, or marks it as failed.
func (l *loop) sync(ctx context.Context, name string) error {
	csr, err := l.requests.Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if !signers[csr.Spec.SignerName].known || len(csr.Status.Certificate) > 0 || !has(csr, certificatesv1.CertificateApproved) ||
		has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed) {
		return nil
	}
	csr = csr.DeepCopy()
	request, err := ParseRequest(csr.Spec.Request)
	if err == nil {
		err = Validate(csr.Spec.SignerName, request, csr.Spec.Usages)
	}
	if err != nil {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: metav1.NewTime(l.c.Clock.Now()),
		})
	} else if csr.Status.Certificate, err = l.sign(request, csr.Spec.Usages, csr.Spec.ExpirationSeconds); err != nil {
		return err
	}
	_, err = l.c.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

// sign returns the PEM certificate for a validated request. It never outlives the authority.
func (l *loop) sign(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, seconds *int32) ([]byte, error) {
	duration := defaultDuration
	if seconds != nil {
		duration = min(duration, max(minDuration, time.Duration(*seconds)*time.Second))
	}
	now := l.c.Clock.Now()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		EmailAddresses: request.EmailAddresses, URIs: request.URIs,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(duration), BasicConstraintsValid: true,
	}
	if template.NotAfter.After(l.ca.NotAfter) {
		template.NotAfter = l.ca.NotAfter
	}
	for _, u := range usages {
		template.KeyUsage |= keyUsages[u]
		if e, ok := extKeyUsages[u]; ok {
			template.ExtKeyUsage = append(template.ExtKeyUsage, e)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, l.ca, request.PublicKey, l.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", request.Subject, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Decided reports whether somebody approved or denied csr.
func Decided(csr *certificatesv1.CertificateSigningRequest) bool {
	return has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied)
}

func has(csr *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	for _, c := range csr.Status.Conditions {
		if c.Type == t {
			return true
		}
	}
	return false
}
