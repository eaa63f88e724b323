// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/util/keyutil"
)

// backdate is how far before now a certificate begins, so that nodes whose clock is a little behind accept it.
const backdate = 5 * time.Minute

// Authority signs certificates. It is safe for concurrent use.
type Authority struct {
	Cert    *x509.Certificate
	CertPEM []byte
	key     crypto.Signer
}

// request says what a leaf certificate is for.
type request struct {
	commonName    string
	organizations []string
	dns           []string
	ips           []net.IP
	server        bool // for TLS servers
	client        bool // for TLS clients
}

// openAuthority reads dir/name.{key,crt} and makes what is missing. A certificate near its end is signed again with the same key and
// subject: leaves it signed before stay valid under both. A certificate that does not belong to the key is an error, because to
// replace it would cut off every client.
func openAuthority(dir, name, commonName string, now time.Time, lifetime time.Duration) (*Authority, error) {
	keyPath, certPath := filepath.Join(dir, name+".key"), filepath.Join(dir, name+".crt")
	certPEM, certErr := os.ReadFile(certPath)
	if certErr != nil && !errors.Is(certErr, fs.ErrNotExist) {
		return nil, certErr
	}
	keyPEM, err := readPrivate(keyPath)
	switch {
	case errors.Is(err, fs.ErrNotExist) && certErr == nil:
		return nil, fmt.Errorf("%s is there but its key %s is not: restore the key, or move the certificate away to start a new authority", certPath, keyPath)
	case errors.Is(err, fs.ErrNotExist):
		if keyPEM, err = newKeyPEM(); err != nil {
			return nil, err
		}
		if err := WriteFile(keyPath, keyPEM, 0o600); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	a := &Authority{key: key}
	if certErr == nil {
		if a.Cert, err = parseCert(certPEM); err != nil {
			return nil, fmt.Errorf("%s: %w", certPath, err)
		}
		if !samePublicKey(a.Cert.PublicKey, key.Public()) {
			return nil, fmt.Errorf("%s does not belong to %s: restore the pair from a backup", certPath, keyPath)
		}
		if !a.Cert.IsCA {
			return nil, fmt.Errorf("%s is not a certificate authority", certPath)
		}
		a.CertPEM = certPEM
		if !dueForRenewal(a.Cert, now) {
			return a, nil
		}
		commonName = a.Cert.Subject.CommonName
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: commonName}, NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, BasicConstraintsValid: true, IsCA: true,
	}
	if a.Cert != nil {
		template.Subject, template.SubjectKeyId = a.Cert.Subject, a.Cert.SubjectKeyId
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if a.Cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.CertPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a, WriteFile(certPath, a.CertPEM, 0o644)
}

// KeyPEM returns the authority's private key, for the signer of certificate signing requests.
func (a *Authority) KeyPEM() ([]byte, error) { return encodeKey(a.key) }

// issue signs a new certificate with a new key and returns both as PEM, certificate first. It never outlives the authority.
func (a *Authority) issue(r request, now time.Time, lifetime time.Duration) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	end := now.Add(lifetime)
	if end.After(a.Cert.NotAfter) {
		end = a.Cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: r.commonName, Organization: r.organizations},
		NotBefore: now.Add(-backdate), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true, ExtKeyUsage: r.usages(), DNSNames: r.dns, IPAddresses: r.ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}

// fits reports why cert is not what r asks for, or "" when it is and need not be renewed yet.
func (a *Authority) fits(cert *x509.Certificate, r request, now time.Time) string {
	switch {
	case cert.CheckSignatureFrom(a.Cert) != nil:
		return "signed by another authority"
	case dueForRenewal(cert, now):
		return "near its end"
	case cert.Subject.CommonName != r.commonName || !sameSet(cert.Subject.Organization, r.organizations):
		return "other subject"
	case !sameSet(cert.DNSNames, r.dns) || !sameSet(ipStrings(cert.IPAddresses), ipStrings(r.ips)):
		return "other names"
	case !slices.Equal(cert.ExtKeyUsage, r.usages()):
		return "other usages"
	}
	return ""
}

func (r request) usages() (out []x509.ExtKeyUsage) {
	if r.server {
		out = append(out, x509.ExtKeyUsageServerAuth)
	}
	if r.client {
		out = append(out, x509.ExtKeyUsageClientAuth)
	}
	return out
}

// dueForRenewal is true in the last fifth of a certificate's life, and before its beginning (the clock jumped back).
func dueForRenewal(c *x509.Certificate, now time.Time) bool {
	life := c.NotAfter.Sub(c.NotBefore)
	return now.After(c.NotAfter.Add(-life/5)) || now.Before(c.NotBefore)
}

func newKeyPEM() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return encodeKey(key)
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// parseKey accepts RSA and ECDSA keys in PKCS#1, SEC 1 and PKCS#8 form.
func parseKey(data []byte) (crypto.Signer, error) {
	key, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T cannot sign", key)
	}
	return signer, nil
}

// parseCert returns the first certificate of data.
func parseCert(data []byte) (*x509.Certificate, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("no PEM certificate in it")
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
}

func samePublicKey(a, b crypto.PublicKey) bool {
	x, err := x509.MarshalPKIXPublicKey(a)
	if err != nil {
		return false
	}
	y, err := x509.MarshalPKIXPublicKey(b)
	return err == nil && bytes.Equal(x, y)
}

func newSerial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand never fails on Linux
	}
	return n.Add(n, big.NewInt(1))
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func ipStrings(ips []net.IP) (out []string) {
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}
