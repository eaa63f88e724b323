// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	gosync "sync"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
)

// signedCertificate returns the way to a server certificate that the cluster signs (signer kubernetes.io/kubelet-serving) and that is renewed before
// it ends. Until the first is signed, fallback's is served.
func (k *kubelet) signedCertificate(ctx context.Context, running *gosync.WaitGroup, fallback func() (*tls.Certificate, error)) (func() (*tls.Certificate, error), error) {
	dir := filepath.Join(k.cfg.DataDir, "pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	store, err := certificate.NewFileStore("kubelet-server", dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("kubelet: server certificate: %w", err)
	}
	manager, err := certificate.NewManager(&certificate.Config{
		Name: "kubelet server", SignerName: certificates.KubeletServingSignerName, CertificateStore: store, Ctx: &ctx,
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) { return k.client, nil },
		GetTemplate: func() *x509.CertificateRequest {
			names, ips := nodeAddresses(k.cfg)
			return &x509.CertificateRequest{
				Subject:     pkix.Name{CommonName: "system:node:" + k.cfg.NodeName, Organization: []string{"system:nodes"}},
				DNSNames:    names,
				IPAddresses: ips,
			}
		},
		GetUsages: func(any) []certificates.KeyUsage {
			return []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("kubelet: server certificate: %w", err)
	}
	running.Go(func() { manager.Start(); <-ctx.Done(); manager.Stop() })
	return func() (*tls.Certificate, error) {
		if current := manager.Current(); current != nil {
			return current, nil
		}
		return fallback()
	}, nil
}
