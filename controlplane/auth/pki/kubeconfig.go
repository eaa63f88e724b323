// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
)

// Kubeconfig returns the kubeconfig that reaches server, trusts caPEM and authenticates with the given pair.
func Kubeconfig(server string, caPEM, certPEM, keyPEM []byte, user string) ([]byte, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters["fairlead"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: caPEM}
	c.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM}
	c.Contexts["fairlead"] = &clientcmdapi.Context{Cluster: "fairlead", AuthInfo: user}
	c.CurrentContext = "fairlead"
	return clientcmd.Write(*c)
}

// ensureKubeconfig leaves path holding a kubeconfig whose certificate fits r and which names the present authority and server.
func (p *PKI) ensureKubeconfig(ctx context.Context, path string, r request) error {
	now, ca := p.cfg.Clock.Now(), p.CA()
	why, err := kubeconfigProblem(path, ca, p.cfg.Server, r, now)
	if err != nil {
		return err
	}
	if why == "" {
		return nil
	}
	cert, key, err := ca.issue(r, now, p.cfg.LeafLifetime)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	data, err := Kubeconfig(p.cfg.Server, ca.CertPEM, cert, key, r.commonName)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := WriteFile(path, data, 0o600); err != nil {
		return err
	}
	klog.FromContext(ctx).V(2).Info("Wrote kubeconfig", "file", path, "reason", why, "user", r.commonName)
	return nil
}

// kubeconfigProblem is leafProblem for a kubeconfig.
func kubeconfigProblem(path string, ca *Authority, server string, r request, now time.Time) (string, error) {
	data, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "not there", nil
	}
	if err != nil {
		return "", err
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		return "unreadable: " + err.Error(), nil
	}
	context := config.Contexts[config.CurrentContext]
	if context == nil || config.Clusters[context.Cluster] == nil || config.AuthInfos[context.AuthInfo] == nil {
		return "incomplete", nil
	}
	cluster, auth := config.Clusters[context.Cluster], config.AuthInfos[context.AuthInfo]
	if cluster.Server != server || !bytes.Equal(cluster.CertificateAuthorityData, ca.CertPEM) {
		return "other server or authority", nil
	}
	pair, err := tls.X509KeyPair(auth.ClientCertificateData, auth.ClientKeyData)
	if err != nil {
		return "unreadable: " + err.Error(), nil
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return "unreadable: " + err.Error(), nil
	}
	return ca.fits(cert, r, now), nil
}
