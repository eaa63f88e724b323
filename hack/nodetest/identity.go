// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead/fairlead/controlplane/apiserver"
)

// Identity is an authority and the API server's client certificate by it, as files.
type Identity struct{ CA, Cert, Key string }

// NewIdentity makes one for the test.
func NewIdentity(t testing.TB) Identity {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	client := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "apiserver", Organization: []string{"system:masters"}},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	write := func(name, kind string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	sign := func(c *x509.Certificate) []byte {
		data, err := x509.CreateCertificate(rand.Reader, c, authority, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	keyData, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Identity{CA: write("ca.crt", "CERTIFICATE", sign(authority)), Cert: write("client.crt", "CERTIFICATE", sign(client)), Key: write("client.key", "EC PRIVATE KEY", keyData)}
}

// Server lets the API server show the certificate to nodes; for StartWith.
func (i Identity) Server(c *apiserver.Config) {
	c.Kubelet.CertFile, c.Kubelet.KeyFile, c.Kubelet.Insecure = i.Cert, i.Key, true
}

// Node lets the node believe the authority and be reached; for StartWith.
func (i Identity) Node(c *Config) { c.Kubelet.Address, c.Kubelet.ClientCAFile = "", i.CA }
