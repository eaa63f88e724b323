// SPDX-License-Identifier: Apache-2.0

// Package authn decides who a request comes from. It chains the API server library's authenticators and the cluster's own tokens:
//
//	request ─► front-proxy headers ─► client certificate ─► bearer token ─► anonymous
//	                                                          │
//	            token file, service account, bootstrap token, OIDC (AuthenticationConfiguration), webhook
//
// The first that knows the request names the user; what none knows is anonymous, or refused when a credential was wrong. Every named
// user is in system:authenticated.
package authn

import (
	"context"
	"crypto"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	requestunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/auth/tokens"
)

// Config says which credentials are accepted. Empty fields switch a kind off.
type Config struct {
	// ClientCA verifies client certificates: the common name is the user, organizations are the groups.
	ClientCA dynamiccertificates.CAContentProvider
	// FrontProxyCA verifies proxies that vouch for a user in the headers X-Remote-User, -Uid, -Group and -Extra-*;
	// FrontProxyNames are the common names they may have, empty meaning any.
	FrontProxyCA    dynamiccertificates.CAContentProvider
	FrontProxyNames []string

	// Audiences are the API server's own: what a token must be meant for. Default: the issuers.
	Audiences authenticator.Audiences
	// Issuers are the accepted "iss" of service-account tokens, the present one first; Keys check their signatures.
	Issuers []string
	Keys    []crypto.PublicKey
	// Get reads what tokens are bound to. Needed with Issuers.
	Get tokens.Getter

	// Client reads bootstrap tokens; nil switches them off.
	Client kubernetes.Interface

	// TokenFile is a CSV file of token,user,uid,"groups" (--token-auth-file).
	TokenFile string
	// ConfigFile is a file of kind AuthenticationConfiguration; it is read again when it changes.
	ConfigFile string
	// WebhookConfigFile is the kubeconfig of a TokenReview webhook; WebhookVersion is "v1" (default) or "v1beta1".
	WebhookConfigFile, WebhookVersion string
	// WebhookCacheTTL is how long the webhook's answers are kept, 2 minutes by default.
	WebhookCacheTTL time.Duration

	// NoAnonymous refuses requests without credentials. An AuthenticationConfiguration's own rule goes first.
	NoAnonymous bool

	// SuccessCacheTTL is how long a good token is not checked again, 10 seconds by default; negative switches the cache off.
	SuccessCacheTTL time.Duration
	APIServerID     string
	Clock           clock.WithTicker
}

// Authentication is the outcome of New.
type Authentication struct {
	// Request is the whole chain, for requests; Tokens is its token part, for TokenReview (nil when no token is accepted).
	Request authenticator.Request
	Tokens  authenticator.Token
	// Audiences are the API server's own.
	Audiences authenticator.Audiences
	// RequestHeader is published in kube-system/extension-apiserver-authentication; nil without FrontProxyCA.
	RequestHeader *authenticatorfactory.RequestHeaderConfig

	file *configFile
}

// Run follows the AuthenticationConfiguration file until ctx ends. It returns at once when there is none.
func (a *Authentication) Run(ctx context.Context) error {
	if a.file == nil {
		return nil
	}
	return a.file.follow(ctx)
}

// New builds the chain. ctx bounds the life of what runs behind OIDC providers.
func New(ctx context.Context, cfg Config) (*Authentication, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = cfg.Issuers
	}
	if cfg.SuccessCacheTTL == 0 {
		cfg.SuccessCacheTTL = 10 * time.Second
	}
	if cfg.WebhookCacheTTL == 0 {
		cfg.WebhookCacheTTL = 2 * time.Minute
	}
	out := &Authentication{Audiences: cfg.Audiences}

	var requests []authenticator.Request
	if cfg.FrontProxyCA != nil {
		out.RequestHeader = requestHeader(cfg)
		h := out.RequestHeader
		requests = append(requests, headerrequest.NewDynamicVerifyOptionsSecure(h.CAContentProvider.VerifyOptions, h.AllowedClientNames,
			h.UsernameHeaders, h.UIDHeaders, h.GroupHeaders, h.ExtraHeaderPrefixes))
	}
	if cfg.ClientCA != nil {
		requests = append(requests, x509.NewDynamic(cfg.ClientCA.VerifyOptions, x509.CommonNameUserConversion))
	}
	accepted, err := tokenAuthenticators(ctx, cfg, out)
	if err != nil {
		return nil, err
	}
	if len(accepted) > 0 {
		// A token that one authenticator knows and refuses may still be good for the next (two issuers, a webhook): errors do not end the search.
		out.Tokens = tokenunion.New(accepted...)
		if cfg.SuccessCacheTTL > 0 {
			out.Tokens = cache.New(out.Tokens, false, cfg.SuccessCacheTTL, 0)
		}
		requests = append(requests, bearertoken.New(out.Tokens), websocket.NewProtocolAuthenticator(out.Tokens))
	}

	anonymousRule := &apiserverconfig.AnonymousAuthConfig{Enabled: !cfg.NoAnonymous}
	if out.file != nil && out.file.anonymous != nil {
		anonymousRule = out.file.anonymous
	}
	if len(requests) == 0 {
		if !anonymousRule.Enabled {
			return nil, fmt.Errorf("authentication: nobody could ever log in, every method is switched off")
		}
		out.Request = anonymous.NewAuthenticator(anonymousRule.Conditions)
		return out, nil
	}
	out.Request = group.NewAuthenticatedGroupAdder(requestunion.New(requests...))
	if anonymousRule.Enabled {
		out.Request = requestunion.NewFailOnError(out.Request, anonymous.NewAuthenticator(anonymousRule.Conditions))
	}
	return out, nil
}

// tokenAuthenticators returns what knows tokens, in the order in which they are asked.
func tokenAuthenticators(ctx context.Context, cfg Config, out *Authentication) (list []authenticator.Token, err error) {
	if cfg.TokenFile != "" {
		file, err := tokenfile.NewCSV(cfg.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
		list = append(list, authenticator.WrapAudienceAgnosticToken(cfg.Audiences, file))
	}
	if len(cfg.Issuers) > 0 {
		validator, err := tokens.NewValidator(cfg.Issuers, cfg.Keys, cfg.Audiences, cfg.Get, cfg.Clock)
		if err != nil {
			return nil, err
		}
		list = append(list, validator)
	}
	if cfg.Client != nil {
		list = append(list, authenticator.WrapAudienceAgnosticToken(cfg.Audiences, &tokens.BootstrapAuthenticator{
			Clock: cfg.Clock,
			Secret: func(ctx context.Context, name string) (*corev1.Secret, error) {
				return cfg.Client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
			},
		}))
	}
	if cfg.ConfigFile != "" {
		if out.file, err = openConfigFile(ctx, cfg); err != nil {
			return nil, err
		}
		list = append(list, authenticator.WrapAudienceAgnosticToken(cfg.Audiences, out.file))
	}
	if cfg.WebhookConfigFile != "" {
		hook, err := newWebhook(cfg)
		if err != nil {
			return nil, fmt.Errorf("token webhook: %w", err)
		}
		list = append(list, hook)
	}
	return list, nil
}

func newWebhook(cfg Config) (authenticator.Token, error) {
	config, err := webhookClient(cfg.WebhookConfigFile)
	if err != nil {
		return nil, err
	}
	version := cfg.WebhookVersion
	if version == "" {
		version = "v1"
	}
	hook, err := webhook.New(config, version, cfg.Audiences, *webhook.DefaultRetryBackoff())
	if err != nil {
		return nil, err
	}
	return cache.New(hook, false, cfg.WebhookCacheTTL, cfg.WebhookCacheTTL), nil
}

func webhookClient(file string) (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: file}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
}

func requestHeader(cfg Config) *authenticatorfactory.RequestHeaderConfig {
	return &authenticatorfactory.RequestHeaderConfig{
		CAContentProvider:   cfg.FrontProxyCA,
		AllowedClientNames:  headerrequest.StaticStringSlice(cfg.FrontProxyNames),
		UsernameHeaders:     headerrequest.StaticStringSlice{"X-Remote-User"},
		UIDHeaders:          headerrequest.StaticStringSlice{"X-Remote-Uid"},
		GroupHeaders:        headerrequest.StaticStringSlice{"X-Remote-Group"},
		ExtraHeaderPrefixes: headerrequest.StaticStringSlice{"X-Remote-Extra-"},
	}
}
