// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/fairlead/fairlead/controlplane/apiserver"
)

// shortLife is how long the signer's certificates hold; nodes renew them after 70% to 90% of it.
const shortLife = 20 * time.Second

// signer signs every certificate that is asked for, for a short time, and sees with which of them requests come.
type signer struct {
	t     *testing.T
	key   *ecdsa.PrivateKey
	ca    *x509.Certificate
	roots *x509.CertPool

	mu     sync.Mutex
	serial int64
	used   map[int64]time.Time // by serial number: when a request last came with it
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "signer"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{t: t, key: key, ca: ca, roots: x509.NewCertPool(), serial: 1, used: map[int64]time.Time{}}
	s.roots.AddCert(ca)
	return s
}

// server makes the API server know nodes by their certificates; for StartWith.
func (s *signer) server(c *apiserver.Config) {
	authority, err := dynamiccertificates.NewStaticCAContent("nodes", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.ca.Raw}))
	if err != nil {
		s.t.Fatal(err)
	}
	c.ClientCA = authority
	known := requestx509.NewDynamic(authority.VerifyOptions, requestx509.CommonNameUserConversion)
	c.Guards = func(context.Context, apiserver.Env) (apiserver.Guards, error) {
		return apiserver.Guards{
			Authenticator: authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
				response, ok, err := known.AuthenticateRequest(r)
				if ok {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.used[r.TLS.PeerCertificates[0].SerialNumber.Int64()] = time.Now()
				}
				return response, ok, err
			}),
			Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				if groups := a.GetUser().GetGroups(); slices.Contains(groups, user.SystemPrivilegedGroup) || slices.Contains(groups, user.NodesGroup) {
					return authorizer.DecisionAllow, "", nil
				}
				return authorizer.DecisionNoOpinion, "", nil
			}),
		}, nil
	}
}

// run signs until ctx ends.
func (s *signer) run(ctx context.Context, client kubernetes.Interface) {
	requests := client.CertificatesV1().CertificateSigningRequests()
	for tick := time.NewTicker(50 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		list, err := requests.List(ctx, metav1.ListOptions{})
		if err != nil {
			continue
		}
		for i := range list.Items {
			request := &list.Items[i]
			if len(request.Status.Certificate) > 0 {
				continue
			}
			request.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateApproved, Status: v1.ConditionTrue, Reason: "Test", Message: "test"}}
			approved, err := requests.UpdateApproval(ctx, request.Name, request, metav1.UpdateOptions{})
			if err == nil {
				approved.Status.Certificate, err = s.sign(approved)
			}
			if err == nil {
				_, err = requests.UpdateStatus(ctx, approved, metav1.UpdateOptions{})
			}
			if err != nil && ctx.Err() == nil {
				s.t.Errorf("signing for %s: %v", request.Spec.SignerName, err)
			}
		}
	}
}

func (s *signer) sign(request *certificates.CertificateSigningRequest) ([]byte, error) {
	block, _ := pem.Decode(request.Spec.Request)
	if block == nil {
		return nil, fmt.Errorf("no PEM in %q", request.Spec.Request)
	}
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.serial++
	serial := s.serial
	s.mu.Unlock()
	usage := x509.ExtKeyUsageClientAuth
	if request.Spec.SignerName == certificates.KubeletServingSignerName {
		usage = x509.ExtKeyUsageServerAuth
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: asked.Subject, DNSNames: asked.DNSNames,
		IPAddresses: asked.IPAddresses, NotBefore: now, NotAfter: now.Add(shortLife), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}}, s.ca, asked.PublicKey, s.key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// since returns the certificates that requests came with after t.
func (s *signer) since(t time.Time) (serials []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for serial, at := range s.used {
		if at.After(t) {
			serials = append(serials, serial)
		}
	}
	slices.Sort(serials)
	return serials
}

// TestCertificatesAreRenewed: a node whose certificates hold for twenty seconds gets new ones in time, and works on beyond the end of the first.
func TestCertificatesAreRenewed(t *testing.T) {
	identity, s := NewIdentity(t), newSigner(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	n := StartWith(t, func(c *apiserver.Config) { identity.Server(c); s.server(c) }, func(c *Config) {
		identity.Node(c)
		with := c.Kubelet.REST
		bootstrap := clientcmdapi.NewConfig()
		bootstrap.Clusters["c"] = &clientcmdapi.Cluster{Server: with.Host, CertificateAuthorityData: with.CAData, TLSServerName: apiServerName}
		bootstrap.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: with.BearerToken}
		bootstrap.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
		bootstrap.CurrentContext = "x"
		c.Kubelet.BootstrapKubeconfig = filepath.Join(t.TempDir(), "bootstrap")
		if err := clientcmd.WriteToFile(*bootstrap, c.Kubelet.BootstrapKubeconfig); err != nil {
			t.Fatal(err)
		}
		c.Kubelet.REST, c.Kubelet.ServerTLSBootstrap = nil, true
		client := kubernetes.NewForConfigOrDie(with)
		running.Go(func() { s.run(ctx, client) })
	})
	lasting := Pod("lasting", "print=here", "forever")
	lasting.Spec.RestartPolicy = v1.RestartPolicyAlways
	n.Create(lasting)
	before := n.WaitReady("lasting").Status.ContainerStatuses[0]

	node, err := n.Client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("%s:%d", NodeIP, node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	serving := func() (*x509.Certificate, error) { // what a client that believes the authority is shown
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: s.roots})
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0], nil
	}
	var first *x509.Certificate
	until(t, "the node serves with a signed certificate", func() bool {
		first, err = serving()
		return err == nil
	})
	oldest := s.since(time.Time{})
	if len(oldest) == 0 {
		t.Fatal("no request came with a certificate")
	}
	end := time.Now().Add(shortLife) // of every certificate that there is now
	for deadline := time.Now().Add(4 * shortLife); ; time.Sleep(100 * time.Millisecond) {
		newest := s.since(end)
		now, err := serving()
		if len(newest) > 0 && err == nil && now.NotAfter.After(end) {
			if newest[0] <= oldest[len(oldest)-1] || now.SerialNumber.Cmp(first.SerialNumber) <= 0 {
				t.Errorf("requests came with %d, then with %d; it served with %d, then with %d", oldest, newest, first.SerialNumber, now.SerialNumber)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("certificates in use after %v: %v; served with: %v, %v", end, newest, now, err)
		}
	}

	n.Create(Pod("after", "print=x"))
	n.WaitPhase("after", v1.PodSucceeded)
	if got := n.logs(&v1.PodLogOptions{}, "lasting"); got != "here\n" {
		t.Errorf("logs %q", got)
	}
	if s := n.Get("lasting").Status.ContainerStatuses[0]; s.ContainerID != before.ContainerID || s.RestartCount != 0 {
		t.Errorf("restarted: %+v", s)
	}
	until(t, "the node's lease is renewed", func() bool {
		lease, err := n.Client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, NodeName, metav1.GetOptions{})
		return err == nil && lease.Spec.RenewTime.After(end)
	})
}
