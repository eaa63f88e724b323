// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Config says where the keys live and whom the serving certificate names.
type Config struct {
	Dir string // created with mode 0700; one server's only

	// Addresses returns the IP addresses and host names under which the API server is reached, beyond loopback, "localhost" and the
	// names of the Service "kubernetes". Open and Run call it again at every check, so it may change. Nil means none.
	Addresses     func() []string
	ServiceCIDRs  []string // the first address of each is the Service "kubernetes"; default 10.96.0.0/16 and fd00:10:96::/112
	ClusterDomain string   // default cluster.local
	// Server is the URL that the kubeconfigs of this machine name, https://127.0.0.1:6443 by default.
	Server string
	// Etcd makes an authority and certificates for an etcd that listens on TCP.
	Etcd bool

	AuthorityLifetime time.Duration // default 10 years
	LeafLifetime      time.Duration // default 1 year; renewed in the last fifth
	CheckEvery        time.Duration // how often Run looks, default 1 minute
	Clock             clock.WithTicker
}

// PKI is an opened directory of keys. It is safe for concurrent use.
type PKI struct {
	cfg Config

	mu                     sync.RWMutex
	ca, frontProxyCA, etcd *Authority
}

// Open makes Config.Dir complete and returns it. It may be called after any crash.
func Open(ctx context.Context, cfg Config) (*PKI, error) {
	if cfg.Dir == "" {
		return nil, errors.New("pki: no directory given")
	}
	if len(cfg.ServiceCIDRs) == 0 {
		cfg.ServiceCIDRs = []string{"10.96.0.0/16", "fd00:10:96::/112"}
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.Server == "" {
		cfg.Server = "https://127.0.0.1:6443"
	}
	if cfg.AuthorityLifetime == 0 {
		cfg.AuthorityLifetime = 10 * 365 * 24 * time.Hour
	}
	if cfg.LeafLifetime == 0 {
		cfg.LeafLifetime = 365 * 24 * time.Hour
	}
	if cfg.CheckEvery == 0 {
		cfg.CheckEvery = time.Minute
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := removeIncomplete(cfg.Dir); err != nil {
		return nil, err
	}
	p := &PKI{cfg: cfg}
	if err := p.ensureServiceAccountKey(); err != nil {
		return nil, fmt.Errorf("service-account key: %w", err)
	}
	if err := p.ensure(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Run keeps certificates valid and fitting until ctx ends.
func (p *PKI) Run(ctx context.Context) error {
	ticker := p.cfg.Clock.NewTicker(p.cfg.CheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			// A full disk or a wrong mode must not end the server: what is there is still valid for a fifth of its life.
			if err := p.ensure(ctx); err != nil {
				klog.FromContext(ctx).Error(err, "Certificates could not be renewed, will try again", "directory", p.cfg.Dir)
			}
		}
	}
}

// Paths of what other components read. An identity's file is given both as certificate and as key file.
func (p *PKI) CAFile() string               { return p.path("ca.crt") }
func (p *PKI) FrontProxyCAFile() string     { return p.path("front-proxy-ca.crt") }
func (p *PKI) ServingFile() string          { return p.path("apiserver.pem") }
func (p *PKI) KubeletClientFile() string    { return p.path("kubelet-client.pem") }
func (p *PKI) FrontProxyClientFile() string { return p.path("front-proxy-client.pem") }
func (p *PKI) EtcdCAFile() string           { return p.path("etcd-ca.crt") }
func (p *PKI) EtcdServerFile() string       { return p.path("etcd-server.pem") }
func (p *PKI) EtcdPeerFile() string         { return p.path("etcd-peer.pem") }
func (p *PKI) EtcdClientFile() string       { return p.path("etcd-client.pem") }
func (p *PKI) ServiceAccountKeyFile() string {
	return p.path("sa.key")
}

// AdminKubeconfig is the path of the kubeconfig that may do everything (group system:masters).
func (p *PKI) AdminKubeconfig() string { return p.path("admin.kubeconfig") }

// SchedulerKubeconfig and ControllerManagerKubeconfig are the paths of the components' kubeconfigs.
func (p *PKI) SchedulerKubeconfig() string         { return p.path("scheduler.kubeconfig") }
func (p *PKI) ControllerManagerKubeconfig() string { return p.path("controller-manager.kubeconfig") }

func (p *PKI) path(name string) string { return filepath.Join(p.cfg.Dir, name) }

// CA returns the cluster's authority, which signs servers and clients.
func (p *PKI) CA() *Authority {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.ca
}

// ServiceAccountKey returns the key that signs service-account tokens.
func (p *PKI) ServiceAccountKey() (crypto.Signer, error) {
	data, err := readPrivate(p.ServiceAccountKeyFile())
	if err != nil {
		return nil, err
	}
	return parseKey(data)
}

// Client returns a fresh client certificate and key as PEM, not stored anywhere.
func (p *PKI) Client(commonName string, organizations ...string) (certPEM, keyPEM []byte, err error) {
	return p.CA().issue(request{commonName: commonName, organizations: organizations, client: true}, p.cfg.Clock.Now(), p.cfg.LeafLifetime)
}

// WriteNode makes the two files with which the node agent on this machine works without a join token: a kubeconfig for the user
// system:node:name and the certificate with which its kubelet port serves. Fitting files are left as they are.
func (p *PKI) WriteNode(ctx context.Context, kubeconfig, serving, name string, addresses []string) error {
	if err := p.ensureKubeconfig(ctx, kubeconfig, request{commonName: "system:node:" + name, organizations: []string{"system:nodes"}, client: true}); err != nil {
		return err
	}
	r := request{commonName: "system:node:" + name, organizations: []string{"system:nodes"}, server: true}
	r.names(append([]string{name, "localhost", "127.0.0.1", "::1"}, addresses...))
	return p.ensureLeaf(ctx, p.CA(), serving, r)
}

func (p *PKI) ensure(ctx context.Context) error {
	now := p.cfg.Clock.Now()
	ca, err := openAuthority(p.cfg.Dir, "ca", "fairlead-ca", now, p.cfg.AuthorityLifetime)
	if err != nil {
		return fmt.Errorf("cluster authority: %w", err)
	}
	front, err := openAuthority(p.cfg.Dir, "front-proxy-ca", "fairlead-front-proxy-ca", now, p.cfg.AuthorityLifetime)
	if err != nil {
		return fmt.Errorf("front-proxy authority: %w", err)
	}
	var etcd *Authority
	if p.cfg.Etcd {
		if etcd, err = openAuthority(p.cfg.Dir, "etcd-ca", "fairlead-etcd-ca", now, p.cfg.AuthorityLifetime); err != nil {
			return fmt.Errorf("etcd authority: %w", err)
		}
	}
	p.mu.Lock()
	p.ca, p.frontProxyCA, p.etcd = ca, front, etcd
	p.mu.Unlock()

	serving := request{commonName: "kube-apiserver", server: true}
	serving.names(p.servingNames())
	leaves := []struct {
		authority *Authority
		path      string
		request   request
	}{
		{ca, p.ServingFile(), serving},
		{ca, p.KubeletClientFile(), request{commonName: KubeletClientUser, client: true}},
		{front, p.FrontProxyClientFile(), request{commonName: "front-proxy-client", client: true}},
	}
	if etcd != nil {
		host := request{commonName: "etcd", server: true, client: true}
		host.names(append([]string{"localhost", "127.0.0.1", "::1"}, p.addresses()...))
		for _, path := range []string{p.EtcdServerFile(), p.EtcdPeerFile()} {
			leaves = append(leaves, struct {
				authority *Authority
				path      string
				request   request
			}{etcd, path, host})
		}
		leaves = append(leaves, struct {
			authority *Authority
			path      string
			request   request
		}{etcd, p.EtcdClientFile(), request{commonName: "kube-apiserver-etcd-client", client: true}})
	}
	for _, l := range leaves {
		if err := p.ensureLeaf(ctx, l.authority, l.path, l.request); err != nil {
			return err
		}
	}
	for path, r := range map[string]request{
		p.AdminKubeconfig():             {commonName: "admin", organizations: []string{"system:masters"}, client: true},
		p.SchedulerKubeconfig():         {commonName: "system:kube-scheduler", client: true},
		p.ControllerManagerKubeconfig(): {commonName: "system:kube-controller-manager", client: true},
	} {
		if err := p.ensureKubeconfig(ctx, path, r); err != nil {
			return err
		}
	}
	return nil
}

// KubeletClientUser is the name under which the API server speaks to kubelets; the default policy lets it use their whole API.
const KubeletClientUser = "kube-apiserver-kubelet-client"

// ensureLeaf leaves path holding a certificate and key that fit r.
func (p *PKI) ensureLeaf(ctx context.Context, a *Authority, path string, r request) error {
	now := p.cfg.Clock.Now()
	why, err := leafProblem(path, a, r, now)
	if err != nil {
		return err
	}
	if why == "" {
		return nil
	}
	cert, key, err := a.issue(r, now, p.cfg.LeafLifetime)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := WriteFile(path, append(cert, key...), 0o600); err != nil {
		return err
	}
	klog.FromContext(ctx).V(2).Info("Issued certificate", "file", path, "reason", why, "names", r.dns, "addresses", r.ips)
	return nil
}

// leafProblem says why the pair in path must be replaced, "" when it need not be. The error is for what a person must look at.
func leafProblem(path string, a *Authority, r request, now time.Time) (string, error) {
	data, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "not there", nil
	}
	if err != nil {
		return "", err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return "unreadable: " + err.Error(), nil
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return "unreadable: " + err.Error(), nil
	}
	return a.fits(cert, r, now), nil
}

func (p *PKI) ensureServiceAccountKey() error {
	data, err := readPrivate(p.ServiceAccountKeyFile())
	if err == nil {
		_, err = parseKey(data)
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if data, err = newKeyPEM(); err != nil {
		return err
	}
	return WriteFile(p.ServiceAccountKeyFile(), data, 0o600)
}

func (p *PKI) addresses() []string {
	if p.cfg.Addresses == nil {
		return nil
	}
	return p.cfg.Addresses()
}

func (p *PKI) servingNames() []string {
	names := []string{"localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + p.cfg.ClusterDomain}
	for _, cidr := range p.cfg.ServiceCIDRs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			names = append(names, prefix.Masked().Addr().Next().String())
		}
	}
	return append(names, p.addresses()...)
}

// names sorts names into addresses and host names, each once.
func (r *request) names(names []string) {
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			if !slices.ContainsFunc(r.ips, ip.Equal) {
				r.ips = append(r.ips, ip)
			}
		} else if n != "" && !slices.Contains(r.dns, n) {
			r.dns = append(r.dns, n)
		}
	}
}
