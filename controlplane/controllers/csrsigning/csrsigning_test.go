// SPDX-License-Identifier: Apache-2.0

package csrsigning_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/csrapproving"
	"github.com/fairlead/fairlead/controlplane/controllers/csrsigning"
)

func key(t *testing.T) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func authority(t *testing.T) (cert, priv []byte, parsed *x509.Certificate) {
	k := key(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kder}), parsed
}

func request(t *testing.T, template *x509.CertificateRequest) []byte {
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key(t))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestApprovalAndSigning(t *testing.T) {
	node := pkix.Name{CommonName: "system:node:node-0", Organization: []string{"system:nodes"}}
	client := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	server := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	for _, test := range []struct {
		name     string
		signer   string
		user     string
		allowed  string // the subresource that the requestor may create
		request  x509.CertificateRequest
		usages   []certificatesv1.KeyUsage
		approved bool // by a person, before
		want     string
	}{
		{"a bootstrap token's first client certificate", certificatesv1.KubeAPIServerClientKubeletSignerName, "system:bootstrap:abcdef", "nodeclient", x509.CertificateRequest{Subject: node}, client, false, "signed"},
		{"a node renews its own", certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:node-0", "selfnodeclient", x509.CertificateRequest{Subject: node}, client, false, "signed"},
		{"a node asks for another's", certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:node-1", "selfnodeclient", x509.CertificateRequest{Subject: node}, client, false, "pending"},
		{"somebody without the right", certificatesv1.KubeAPIServerClientKubeletSignerName, "jane", "", x509.CertificateRequest{Subject: node}, client, false, "pending"},
		{"serving, with the node's address", certificatesv1.KubeletServingSignerName, "system:node:node-0", "",
			x509.CertificateRequest{Subject: node, DNSNames: []string{"node-0"}, IPAddresses: []net.IP{net.ParseIP("192.0.2.1")}}, server, false, "signed"},
		{"serving, with a foreign address", certificatesv1.KubeletServingSignerName, "system:node:node-0", "",
			x509.CertificateRequest{Subject: node, IPAddresses: []net.IP{net.ParseIP("192.0.2.99")}}, server, false, "pending"},
		{"serving, asked for by another node", certificatesv1.KubeletServingSignerName, "system:node:node-1", "",
			x509.CertificateRequest{Subject: node, DNSNames: []string{"node-0"}}, server, false, "pending"},
		{"approved by hand with a usage that the signer forbids", certificatesv1.KubeAPIServerClientKubeletSignerName, "jane", "", x509.CertificateRequest{Subject: node}, server, true, "failed"},
		{"approved by hand for system:masters", certificatesv1.KubeAPIServerClientSignerName, "jane", "",
			x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: []string{"system:masters"}}}, client, true, "failed"},
		{"approved by hand for a user", certificatesv1.KubeAPIServerClientSignerName, "jane", "", x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, client, true, "signed"},
		{"a signer that is not ours", "example.com/signer", "jane", "", x509.CertificateRequest{Subject: node}, client, true, "pending"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cert, priv, ca := authority(t)
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
					SignerName: test.signer, Username: test.user, Request: request(t, &test.request), Usages: test.usages, ExpirationSeconds: ptr.To[int32](3600),
				}}
				w := controllertest.NewWorld(t, []runtime.Object{csr, controllertest.Node("node-0")}, func(c *controller.Context) controller.Controller {
					// Virtual time begins in the year 2000; the authority was made outside of it.
					c.Settings.SigningCert, c.Settings.SigningKey = cert, priv
					c.Client.(*fake.Clientset).PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
						r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
						r.Status.Allowed = r.Spec.ResourceAttributes.Subresource == test.allowed
						return true, r, nil
					})
					return csrapproving.New(c)
				}, func(c *controller.Context) controller.Controller { return csrsigning.New(c) })
				defer w.Close()
				api := w.Client.CertificatesV1().CertificateSigningRequests()
				if test.approved {
					r, err := api.Get(context.Background(), "r", metav1.GetOptions{})
					w.Check(err)
					r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
					_, err = api.UpdateStatus(context.Background(), r, metav1.UpdateOptions{})
					w.Check(err)
				}
				w.Wait()
				r, err := api.Get(context.Background(), "r", metav1.GetOptions{})
				w.Check(err)
				got := "pending"
				for _, c := range r.Status.Conditions {
					if c.Type == certificatesv1.CertificateFailed {
						got = "failed"
					}
				}
				if len(r.Status.Certificate) > 0 {
					got = "signed"
					block, _ := pem.Decode(r.Status.Certificate)
					leaf, err := x509.ParseCertificate(block.Bytes)
					w.Check(err)
					if err := leaf.CheckSignatureFrom(ca); err != nil || leaf.Subject.CommonName != test.request.Subject.CommonName || leaf.IsCA {
						t.Errorf("certificate of %s: %v", leaf.Subject, err)
					}
					if d := leaf.NotAfter.Sub(now); d > 61*time.Minute {
						t.Errorf("it lives for %v, an hour was asked for", d)
					}
				}
				if got != test.want {
					t.Errorf("the request is %s, want %s: %+v", got, test.want, r.Status.Conditions)
				}
			})
		})
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := csrsigning.ParseRequest(text); err == nil && (r == nil || !strings.Contains(string(text), "BEGIN CERTIFICATE REQUEST")) {
			t.Fatal("accepted what is no request")
		}
	})
}
