// SPDX-License-Identifier: Apache-2.0

package csrcleaner_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/csrcleaner"
)

func certificate(t *testing.T, until time.Time) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestHowLongARequestIsKept(t *testing.T) {
	condition := func(kind certificatesv1.RequestConditionType) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: kind, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now()}}
		}
	}
	for _, test := range []struct {
		name   string
		change func(*certificatesv1.CertificateSigningRequest)
		keep   time.Duration
	}{
		{"undecided: a day", nil, 24 * time.Hour},
		{"denied: an hour", condition(certificatesv1.CertificateDenied), time.Hour},
		{"failed: an hour", condition(certificatesv1.CertificateFailed), time.Hour},
		{"approved and waiting for its signer: a day", condition(certificatesv1.CertificateApproved), 24 * time.Hour},
		{"issued: an hour", func(r *certificatesv1.CertificateSigningRequest) {
			condition(certificatesv1.CertificateApproved)(r)
			r.Status.Certificate = certificate(t, time.Now().Add(100*time.Hour))
		}, time.Hour},
		{"issued for ten minutes: as long", func(r *certificatesv1.CertificateSigningRequest) {
			condition(certificatesv1.CertificateApproved)(r)
			r.Status.Certificate = certificate(t, time.Now().Add(10*time.Minute))
		}, 10 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
				if test.change != nil {
					test.change(r)
				}
				w := controllertest.NewWorld(t, []runtime.Object{r}, csrcleaner.New)
				defer w.Close()
				there := func() bool {
					_, err := w.Client.CertificatesV1().CertificateSigningRequests().Get(context.Background(), "r", metav1.GetOptions{})
					return err == nil
				}
				w.After(test.keep - time.Minute)
				if !there() {
					t.Fatalf("gone a minute before %v", test.keep)
				}
				if w.After(2 * time.Minute); there() {
					t.Errorf("still there a minute after %v", test.keep)
				}
			})
		})
	}
}
