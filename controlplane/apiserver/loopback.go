// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/google/uuid"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/rest"
)

// loopbackFor is longer than a server runs: its certificate is made at the start and nobody else can use or renew it.
const loopbackFor = 10 * 365 * 24 * time.Hour

// loopback makes serving answer a name that only this server's own clients ask for with a certificate of its own, and returns the configuration of such a
// client, which has all rights. genericoptions.WithLoopback does the same with an RSA key, whose search takes up to a third of the start.
func loopback(serving *genericapiserver.SecureServingInfo) (*rest.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: genericapiserver.LoopbackClientServerNameOverride},
		DNSNames: []string{genericapiserver.LoopbackClientServerNameOverride}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(loopbackFor),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pair, err := dynamiccertificates.NewStaticSNICertKeyContent("self-signed loopback", cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		genericapiserver.LoopbackClientServerNameOverride)
	if err != nil {
		return nil, err
	}
	// At the front, where it comes before any other certificate of that name.
	serving.SNICerts = append([]dynamiccertificates.SNICertKeyContentProvider{pair}, serving.SNICerts...)
	return serving.NewLoopbackClientConfig(uuid.NewString(), cert)
}
