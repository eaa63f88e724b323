// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	"k8s.io/klog/v2"
)

// followEvery is how often the configuration file is compared with what is in use.
const followEvery = 15 * time.Second

// configFile authenticates tokens as an AuthenticationConfiguration file says, and follows its changes: a good new version replaces the
// old one at once, a bad one is logged and the old one stays.
type configFile struct {
	cfg       Config
	compiler  authenticationcel.Compiler
	anonymous *apiserverconfig.AnonymousAuthConfig // of the first version; a change of it needs a restart
	data      []byte
	current   atomic.Pointer[version]
}

// version is one content of the file at work.
type version struct {
	authenticator.Token
	stop context.CancelFunc
}

func openConfigFile(ctx context.Context, cfg Config) (*configFile, error) {
	f := &configFile{cfg: cfg, compiler: authenticationcel.NewDefaultCompiler()}
	data, err := os.ReadFile(cfg.ConfigFile)
	if err != nil {
		return nil, fmt.Errorf("authentication configuration: %w", err)
	}
	parsed, err := f.load(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("authentication configuration %s: %w", cfg.ConfigFile, err)
	}
	f.anonymous = parsed.Anonymous
	return f, nil
}

// AuthenticateToken asks the providers of the version in use.
func (f *configFile) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	return f.current.Load().AuthenticateToken(ctx, token)
}

// load puts data to use.
func (f *configFile) load(ctx context.Context, data []byte) (*apiserverconfig.AuthenticationConfiguration, error) {
	parsed, err := parseAuthentication(data)
	if err != nil {
		return nil, err
	}
	if errs := validation.ValidateAuthenticationConfiguration(f.compiler, parsed, f.cfg.Issuers); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	ctx, stop := context.WithCancel(ctx)
	var providers []authenticator.Token
	for _, j := range parsed.JWT {
		options := oidc.Options{
			JWTAuthenticator: j, Compiler: f.compiler, SupportedSigningAlgs: oidc.AllValidSigningAlgorithms(), DisallowedIssuers: f.cfg.Issuers,
			APIServerID: f.cfg.APIServerID,
		}
		if j.Issuer.CertificateAuthority != "" {
			if options.CAContentProvider, err = dynamiccertificates.NewStaticCAContent("oidc-authenticator", []byte(j.Issuer.CertificateAuthority)); err != nil {
				stop()
				return nil, fmt.Errorf("issuer %s: %w", j.Issuer.URL, err)
			}
		}
		provider, err := oidc.New(ctx, options)
		if err != nil {
			stop()
			return nil, fmt.Errorf("issuer %s: %w", j.Issuer.URL, err)
		}
		providers = append(providers, provider)
	}
	f.data = data
	if old := f.current.Swap(&version{tokenunion.New(providers...), stop}); old != nil {
		old.stop()
	}
	return parsed, nil
}

// follow reloads the file whenever its content changes, until ctx ends.
func (f *configFile) follow(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	ticker := f.cfg.Clock.NewTicker(followEvery)
	defer ticker.Stop()
	var refused []byte
	for {
		select {
		case <-ctx.Done():
			f.current.Load().stop()
			return nil
		case <-ticker.C():
		}
		data, err := os.ReadFile(f.cfg.ConfigFile)
		switch {
		case err != nil:
			logger.Error(err, "Authentication configuration cannot be read, the last one stays in use")
			continue
		case bytes.Equal(data, f.data) || refused != nil && bytes.Equal(data, refused):
			continue
		}
		parsed, err := f.load(ctx, data)
		if err != nil {
			refused = data
			logger.Error(err, "Authentication configuration is not usable, the last one stays in use", "file", f.cfg.ConfigFile)
			continue
		}
		refused = nil
		logger.Info("Authentication configuration changed", "file", f.cfg.ConfigFile, "issuers", len(parsed.JWT))
		if !equality.Semantic.DeepEqual(parsed.Anonymous, f.anonymous) {
			logger.Info("The rule for anonymous requests changes with the next start only", "file", f.cfg.ConfigFile)
		}
	}
}

// parseAuthentication reads the file strictly: unknown and doubled fields are errors.
func parseAuthentication(data []byte) (*apiserverconfig.AuthenticationConfiguration, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the file is empty")
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	obj, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return nil, err
	}
	parsed, ok := obj.(*apiserverconfig.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("it holds %T, want AuthenticationConfiguration", obj)
	}
	return parsed, nil
}
