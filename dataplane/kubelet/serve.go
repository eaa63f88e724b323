// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	gosync "sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/util/wait"
	apiserver "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/kubelet/server"
)

var reviewBackoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}

// serve answers on the kubelet's port until ctx ends.
func (k *kubelet) serve(ctx context.Context, listener net.Listener, running *gosync.WaitGroup) error {
	config := server.Config{
		NodeName: k.cfg.NodeName, Runtime: k.runtime, Views: k.workers.Views, Metrics: k.metrics.handler(),
		ProbeMetrics: promhttp.HandlerFor(k.metrics.probing, promhttp.HandlerOpts{}),
		LogDir:       "/var/log",
		Healthy:      k.healthy, ResourceMetrics: k.stats.ResourceHandler(), ContainerMetrics: k.stats.ContainerHandler(),
		Summary: func(ctx context.Context, less bool) (any, error) { return k.stats.Summary(ctx, less) },
	}
	authentication := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous:               &apiserver.AnonymousAuthConfig{Enabled: false},
		TokenAccessReviewClient: k.client.AuthenticationV1(), TokenAccessReviewTimeout: 10 * time.Second,
		WebhookRetryBackoff: &reviewBackoff, CacheTTL: 2 * time.Minute,
	}
	if k.cfg.ClientCAFile != "" {
		authority, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", k.cfg.ClientCAFile)
		if err != nil {
			return fmt.Errorf("kubelet: client authority: %w", err)
		}
		go authority.Run(ctx, 1)
		authentication.ClientCertificateCAContentProvider = authority
		config.ClientCAs = func() *tls.Config {
			options, _ := authority.VerifyOptions()
			return &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: options.Roots}
		}
	}
	var err error
	if config.Authenticator, _, err = authentication.New(); err != nil {
		return fmt.Errorf("kubelet: authentication: %w", err)
	}
	if config.Authorizer, err = (authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: k.client.AuthorizationV1(), AllowCacheTTL: 5 * time.Minute, DenyCacheTTL: 30 * time.Second, WebhookRetryBackoff: &reviewBackoff,
	}).New(); err != nil {
		return fmt.Errorf("kubelet: authorization: %w", err)
	}
	if config.Certificate, err = k.serverCertificate(); err != nil {
		return err
	}
	if k.cfg.ServerTLSBootstrap {
		if config.Certificate, err = k.signedCertificate(ctx, running, config.Certificate); err != nil {
			return err
		}
	}
	k.certificate = config.Certificate
	klog.FromContext(ctx).Info("Serving logs, exec and metrics", "address", listener.Addr())
	if k.cfg.OnReady != nil {
		go k.tellReady(ctx)
	}
	return server.Serve(ctx, listener, config)
}

func (k *kubelet) tellReady(ctx context.Context) {
	err := wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(context.Context) (bool, error) {
		return k.keeper.Node() != nil && k.sources.podsSynced(), nil
	})
	if err == nil {
		k.cfg.OnReady()
	}
}

func (k *kubelet) healthy() error {
	if !k.pleg.Healthy() {
		return errors.New("the container runtime has not answered for three minutes")
	}
	return nil
}

// serverCertificate returns the way to the server's certificate; files are read again when they change.
func (k *kubelet) serverCertificate() (func() (*tls.Certificate, error), error) {
	certFile, keyFile := k.cfg.TLSCertFile, k.cfg.TLSKeyFile
	if certFile == "" {
		dir := filepath.Join(k.cfg.DataDir, "pki")
		certFile, keyFile = filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if usable, err := cert.CanReadCertAndKey(certFile, keyFile); err != nil || !usable {
			names, ips := nodeAddresses(k.cfg)
			certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey(k.cfg.NodeName, ips, names)
			if err != nil {
				return nil, fmt.Errorf("kubelet: server certificate: %w", err)
			}
			if err := errors.Join(os.WriteFile(certFile, certPEM, 0o644), os.WriteFile(keyFile, keyPEM, 0o600)); err != nil {
				return nil, fmt.Errorf("kubelet: server certificate: %w", err)
			}
		}
	}
	files := &certificateFiles{cert: certFile, key: keyFile}
	if _, err := files.get(); err != nil {
		return nil, fmt.Errorf("kubelet: server certificate: %w", err)
	}
	return files.get, nil
}
