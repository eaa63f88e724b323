// SPDX-License-Identifier: Apache-2.0

// Package discovery gives a host that joins a cluster the cluster's certificate authority, so that it trusts nobody else.
//
//	URL of any server + hash of the authority's public key --> kube-public/cluster-info (read without trust) --> the authority, if the hash fits
//
// The hash is the one that kubeadm knows as discovery token CA certificate hash: SHA-256 of the subject public key info. It stays the same when the
// authority's certificate is renewed. Nothing secret is sent before the authority is known.
package discovery

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

const (
	hashPrefix = "sha256:"
	timeout    = 10 * time.Second
	// maxAnswer bounds what is read of a server that nobody trusts yet.
	maxAnswer = 1 << 20
)

// Hash returns the hash of an authority's public key, "sha256:" and 64 hexadecimal digits.
func Hash(authority *x509.Certificate) string {
	sum := sha256.Sum256(authority.RawSubjectPublicKeyInfo)
	return hashPrefix + hex.EncodeToString(sum[:])
}

// HashPEM returns the hash of the first certificate in pemBytes.
func HashPEM(pemBytes []byte) (string, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("no certificate in PEM form")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	return Hash(cert), nil
}

// ErrHash is the answer when a server's authority is another one than the hash says: a wrong hash, a wrong server, or somebody between.
var ErrHash = errors.New("the authority has another hash")

// Authority asks server (https://HOST:PORT) for the cluster's authority and returns, as PEM, what of it fits hash.
func Authority(ctx context.Context, server, hash string) ([]byte, error) {
	if raw, err := hex.DecodeString(strings.TrimPrefix(hash, hashPrefix)); err != nil || len(raw) != sha256.Size || !strings.HasPrefix(hash, hashPrefix) {
		return nil, fmt.Errorf("CA hash %q: want %s and 64 hexadecimal digits", hash, hashPrefix)
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server %q: want https://HOST:PORT", server)
	}
	data, err := clusterInfo(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("ask %s for the cluster's authority: %w", server, err)
	}
	fitting, err := match(data, hash)
	if err != nil {
		return nil, fmt.Errorf("authority of the cluster at %s: %w", server, err)
	}
	return fitting, nil
}

// clusterInfo reads the authority out of kube-public/cluster-info without knowing whom it asks.
func clusterInfo(ctx context.Context, u *url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	u = u.JoinPath("api/v1/namespaces/kube-public/configmaps", bootstrapapi.ConfigMapClusterInfo)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, // the answer is checked, not the connection
		Proxy:           http.ProxyFromEnvironment,
	}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("kube-public/%s: %s; when the cluster refuses anonymous requests, give the authority as a file", bootstrapapi.ConfigMapClusterInfo, resp.Status)
	}
	return authorityOf(body)
}

// authorityOf takes the authority out of a cluster-info ConfigMap in JSON.
func authorityOf(body []byte) ([]byte, error) {
	var info corev1.ConfigMap
	if err := json.Unmarshal(body, &info); err != nil {
		return nil, fmt.Errorf("the answer is no ConfigMap: %w", err)
	}
	config, err := clientcmd.Load([]byte(info.Data[bootstrapapi.KubeConfigKey]))
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig in %s: %w", bootstrapapi.ConfigMapClusterInfo, err)
	}
	for _, c := range config.Clusters {
		if len(c.CertificateAuthorityData) > 0 {
			return c.CertificateAuthorityData, nil
		}
	}
	return nil, fmt.Errorf("the kubeconfig in %s names no authority", bootstrapapi.ConfigMapClusterInfo)
}

// match returns the certificates in pemBytes that fit hash.
func match(pemBytes []byte, hash string) ([]byte, error) {
	var out []byte
	var seen []string
	for block, rest := pem.Decode(pemBytes); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if got := Hash(cert); got == hash && cert.IsCA {
			out = append(out, pem.EncodeToMemory(block)...)
		} else {
			seen = append(seen, got)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: it is %s, want %s; check both the hash and the server's address", ErrHash, strings.Join(seen, ", "), hash)
	}
	return out, nil
}
