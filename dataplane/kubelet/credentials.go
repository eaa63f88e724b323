// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	gosync "sync"
	"time"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/servers"
)

// Credentials returns the node's way to the API server, for parts of the agent that start beside the kubelet: pass it on as Config.REST. It
// waits for the cluster to sign the node's certificate when it has none yet. running is what keeps the certificate young; it ends with ctx.
func Credentials(ctx context.Context, cfg Config, running *gosync.WaitGroup) (*rest.Config, error) {
	if cfg.REST == nil && cfg.Kubeconfig == "" {
		cfg.CRIEndpoint = "unused" // nothing here asks the runtime
		var err error
		if cfg, err = cfg.withDefaults(); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
			return nil, err
		}
	}
	return credentialsFor(ctx, cfg, running)
}

// credentialsFor returns the way to the API server: as given, from a kubeconfig, or with a certificate of the node's own that is asked for
// with the bootstrap credential and renewed before it ends.
func credentialsFor(ctx context.Context, cfg Config, running *gosync.WaitGroup) (*rest.Config, error) {
	if cfg.REST != nil {
		return rest.CopyConfig(cfg.REST), nil
	}
	if cfg.Kubeconfig != "" {
		if _, err := os.Stat(cfg.Kubeconfig); err == nil || cfg.BootstrapKubeconfig == "" {
			loaded, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
			if err != nil {
				return nil, fmt.Errorf("kubelet: kubeconfig %s: %w", cfg.Kubeconfig, err)
			}
			return loaded, nil
		}
	}
	if cfg.BootstrapKubeconfig == "" {
		return nil, fmt.Errorf("kubelet: neither a kubeconfig nor a bootstrap kubeconfig is given")
	}
	bootstrap, err := clientcmd.BuildConfigFromFlags("", cfg.BootstrapKubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubelet: bootstrap kubeconfig %s: %w", cfg.BootstrapKubeconfig, err)
	}
	return bootstrapped(ctx, cfg, bootstrap, running)
}

func bootstrapped(ctx context.Context, cfg Config, bootstrap *rest.Config, running *gosync.WaitGroup) (*rest.Config, error) {
	log := klog.FromContext(ctx)
	dir := filepath.Join(cfg.DataDir, "pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	store, err := certificate.NewFileStore("kubelet-client", dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("kubelet: certificates: %w", err)
	}
	var dialer Dialer = cfg.Servers
	if cfg.Servers == nil {
		dialer = connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
	}
	anonymous := rest.AnonymousClientConfig(bootstrap)
	connect := func(identity *rest.Config, current func() *tls.Certificate) *rest.Config {
		out := rest.CopyConfig(identity)
		out.Transport = transportFor(anonymous, dialer, cfg.Servers != nil, current)
		out.TLSClientConfig = rest.TLSClientConfig{}
		return out
	}
	manager, err := certificate.NewManager(&certificate.Config{
		Name: "kubelet client", SignerName: certificates.KubeAPIServerClientKubeletSignerName,
		Template: &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + cfg.NodeName, Organization: []string{"system:nodes"}}},
		GetUsages: func(any) []certificates.KeyUsage {
			return []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth}
		},
		CertificateStore: store, Ctx: &ctx,
		ClientsetFn: func(current *tls.Certificate) (kubernetes.Interface, error) {
			if current == nil || current.Leaf != nil && time.Now().After(current.Leaf.NotAfter) {
				return kubernetes.NewForConfig(connect(bootstrap, func() *tls.Certificate { return nil }))
			}
			return kubernetes.NewForConfig(connect(anonymous, func() *tls.Certificate { return current }))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("kubelet: certificates: %w", err)
	}
	running.Go(func() { manager.Start(); <-ctx.Done(); manager.Stop() })
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for told := false; manager.Current() == nil; {
		if !told {
			log.Info("Waiting for the cluster to sign this node's certificate", "node", cfg.NodeName)
			told = true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// Connections that were made with an old certificate are closed when a new one comes.
	running.Go(func() { rotateConnections(ctx, manager, dialer) })
	return connect(anonymous, manager.Current), nil
}

// Dialer connects to an API server and can close what it connected.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	CloseAll()
}

// pingAfter is how long a silent connection is believed, pingTimeout how long a ping may take: a host that died without a word is noticed well within
// the 40 s of a node's lease.
const pingAfter, pingTimeout = 10 * time.Second, 5 * time.Second

// transportFor connects by dialer to what config trusts. With several the servers are known by the name that all of them have, not by their addresses.
func transportFor(config *rest.Config, dialer Dialer, several bool, current func() *tls.Certificate) *http.Transport {
	secured := tlsFor(config, current)
	if several {
		secured.ServerName, secured.VerifyConnection = servers.Name, servers.VerifyServer
	}
	return &http.Transport{
		TLSClientConfig: secured, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 25,
		TLSHandshakeTimeout: 10 * time.Second, Proxy: http.ProxyFromEnvironment,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

func rotateConnections(ctx context.Context, manager certificate.Manager, dialer Dialer) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := manager.Current()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if current := manager.Current(); current != last {
				last = current
				dialer.CloseAll()
			}
		}
	}
}

func tlsFor(config *rest.Config, current func() *tls.Certificate) *tls.Config {
	out, err := rest.TLSConfigFor(config)
	if err != nil || out == nil {
		out = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	out = out.Clone()
	out.NextProtos = []string{"h2", "http/1.1"}
	out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if certificate := current(); certificate != nil {
			return certificate, nil
		}
		return &tls.Certificate{}, nil
	}
	return out
}

// nodeAddresses is for certificate requests.
func nodeAddresses(cfg Config) (names []string, ips []net.IP) {
	for _, text := range cfg.NodeIPs {
		if ip := net.ParseIP(text); ip != nil {
			ips = append(ips, ip)
		}
	}
	return []string{cfg.NodeName}, ips
}
