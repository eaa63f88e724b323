// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/admission/policystatus"
	"github.com/fairlead/fairlead/controlplane/admission/priority"
	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/auth/authn"
	"github.com/fairlead/fairlead/controlplane/auth/authz"
	"github.com/fairlead/fairlead/controlplane/auth/pki"
	"github.com/fairlead/fairlead/controlplane/auth/rbac"
	"github.com/fairlead/fairlead/controlplane/auth/tokens"
	"github.com/fairlead/fairlead/controlplane/store"
)

// guards makes what decides about requests, from the keys and the configuration.
type guards struct {
	cfg      Config
	keys     *pki.PKI
	store    *store.Store
	clientCA dynamiccertificates.CAContentProvider
	port     int
}

func (g *guards) build(ctx context.Context, env apiserver.Env) (apiserver.Guards, error) {
	var none apiserver.Guards
	key, err := g.keys.ServiceAccountKey()
	if err != nil {
		return none, fmt.Errorf("service-account key: %w", err)
	}
	issuer, err := tokens.NewIssuer(g.cfg.Issuer, key)
	if err != nil {
		return none, err
	}
	frontProxyCA, err := dynamiccertificates.NewDynamicCAContentFromFile("front-proxy-ca", g.keys.FrontProxyCAFile())
	if err != nil {
		return none, err
	}
	get := tokens.NewGetter(env.Client, env.Informers)
	public := []crypto.PublicKey{issuer.PublicKey()}
	who, err := authn.New(ctx, authn.Config{
		ClientCA: g.clientCA, FrontProxyCA: frontProxyCA, FrontProxyNames: []string{"front-proxy-client"},
		Audiences: authenticator.Audiences(g.cfg.Audiences), Issuers: []string{g.cfg.Issuer}, Keys: public, Get: get, Client: env.Client,
		ConfigFile: g.cfg.AuthenticationConfig, NoAnonymous: g.cfg.NoAnonymous, APIServerID: env.Generic.APIServerID,
		TokenFile: g.cfg.TokenAuthFile, WebhookConfigFile: g.cfg.TokenWebhook.ConfigFile, WebhookVersion: g.cfg.TokenWebhook.Version,
		WebhookCacheTTL: g.cfg.TokenWebhook.CacheTTL,
	})
	if err != nil {
		return none, fmt.Errorf("authentication: %w", err)
	}
	policy, err := rbac.DefaultPolicy()
	if err != nil {
		return none, fmt.Errorf("default roles: %w", err)
	}
	may, err := authz.New(authz.Config{Informers: env.Informers, Policy: policy, ConfigFile: g.cfg.AuthorizationConfig})
	if err != nil {
		return none, fmt.Errorf("authorization: %w", err)
	}
	secrets, err := tokens.NewSecrets(env.Client, env.Informers, issuer, func() []byte { return g.keys.CA().CertPEM })
	if err != nil {
		return none, fmt.Errorf("token secrets: %w", err)
	}
	policies, err := policystatus.New(env.Client, env.Informers)
	if err != nil {
		return none, fmt.Errorf("admission policies: %w", err)
	}
	out := apiserver.Guards{
		Authenticator: who.Request, APIAudiences: who.Audiences, TokenAuthenticator: who.Tokens, RequestHeader: who.RequestHeader,
		Authorizer: may.Authorizer, Rules: may.RuleResolver,
		ServiceAccountToken: tokens.NewREST(tokens.RequestConfig{Issuer: issuer, Get: tokens.NewLiveGetter(env.Client), Audiences: who.Audiences}),
		Admission:           g.admission(),
		Handlers:            map[string]http.Handler{joinPath: &doorkeeper{common: g.cfg.common(), keys: g.keys, store: g.store}},
		Bootstrap: map[string]func(context.Context) error{
			"cluster-info":         func(ctx context.Context) error { return g.clusterInfo(ctx, env.Client) },
			"rbac/bootstrap-roles": func(ctx context.Context) error { return rbac.Reconcile(ctx, env.Client, policy) },
			"scheduling/bootstrap-system-priority-classes": func(ctx context.Context) error { return priority.EnsureSystemClasses(ctx, env.Client) },
		},
		Start: map[string]func(context.Context) error{
			"authentication-configuration": who.Run,
			"service-account-secrets":      secrets.Run,
			"admission-policy-status":      policies.Run,
			"rbac/repair-roles": func(ctx context.Context) error {
				// The first pass is the bootstrap's; this is for what is changed later.
				for sleep(ctx, 5*time.Minute) {
					if err := rbac.Reconcile(ctx, env.Client, policy); err != nil && ctx.Err() == nil {
						klog.FromContext(ctx).Error(err, "Cannot repair the default roles")
					}
				}
				return nil
			},
		},
	}
	external := "127.0.0.1"
	if addresses := g.cfg.advertised(); len(addresses) > 0 {
		external = addresses[0].String()
	}
	discovery, err := tokens.NewDiscovery(g.cfg.Issuer, "", net.JoinHostPort(external, strconv.Itoa(g.port)), public)
	if err != nil {
		klog.FromContext(ctx).Info("Service-account issuer cannot be discovered", "issuer", g.cfg.Issuer, "reason", err.Error())
	} else {
		discovery.Install(handlers(out.Handlers))
	}
	return out, nil
}

// handlers collects what tokens.Discovery wants to serve.
type handlers map[string]http.Handler

func (h handlers) Handle(path string, handler http.Handler) { h[path] = handler }

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
