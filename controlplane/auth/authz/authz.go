// SPDX-License-Identifier: Apache-2.0

// Package authz puts the authorizers in their order: members of system:masters may do anything, then nodes what their pods need, then
// everybody what their roles allow, then webhooks of an AuthorizationConfiguration file. What none allows is refused.
package authz

import (
	"fmt"
	"time"

	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/load"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	webhookmetrics "k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead/fairlead/controlplane/auth/node"
	"github.com/fairlead/fairlead/controlplane/auth/rbac"
)

// Config says who decides.
type Config struct {
	// Informers of the API server itself, started by the caller.
	Informers informers.SharedInformerFactory
	// Policy is the default policy; its rules for nodes bound what a node may do.
	Policy *rbac.Policy
	// ConfigFile is a file of kind AuthorizationConfiguration. Types Node, RBAC and Webhook, in the order in which they are asked.
	// Empty: Node, RBAC.
	ConfigFile string
}

// Authorization is the outcome of New.
type Authorization struct {
	Authorizer   authorizer.Authorizer
	RuleResolver authorizer.RuleResolver
	// HasSynced reports whether the node index holds what existed at start.
	HasSynced func() bool
}

// New builds the chain.
func New(cfg Config) (*Authorization, error) {
	order := []apiserverconfig.AuthorizerConfiguration{{Type: "Node", Name: "node"}, {Type: "RBAC", Name: "rbac"}}
	if cfg.ConfigFile != "" {
		parsed, err := load.LoadFromFile(cfg.ConfigFile)
		if err != nil {
			return nil, fmt.Errorf("authorization configuration %s: %w", cfg.ConfigFile, err)
		}
		order = parsed.Authorizers
	}
	compiler := authorizationcel.NewDefaultCompiler()
	if errs := validate(compiler, order); len(errs) > 0 {
		return nil, fmt.Errorf("authorization configuration %s: %w", cfg.ConfigFile, errs.ToAggregate())
	}
	out := &Authorization{HasSynced: func() bool { return true }}
	chain := []union.NamedAuthorizer{{AuthorizerName: "privileged-groups", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)}}
	var resolvers []authorizer.RuleResolver
	for _, c := range order {
		switch c.Type {
		case "Node":
			index, err := node.NewIndex(cfg.Informers)
			if err != nil {
				return nil, err
			}
			a := node.NewAuthorizer(index, cfg.Policy.NodeRules(), cfg.Informers.Resource().V1().ResourceSlices().Lister())
			out.HasSynced = index.HasSynced
			chain, resolvers = append(chain, union.NamedAuthorizer{AuthorizerName: c.Name, Authorizer: a}), append(resolvers, a)
		case "RBAC":
			a := rbac.New(cfg.Informers)
			chain, resolvers = append(chain, union.NamedAuthorizer{AuthorizerName: c.Name, Authorizer: a}), append(resolvers, a)
		case apiserverconfig.TypeWebhook:
			a, err := newWebhook(c, compiler)
			if err != nil {
				return nil, fmt.Errorf("authorization webhook %s: %w", c.Name, err)
			}
			chain, resolvers = append(chain, union.NamedAuthorizer{AuthorizerName: c.Name, Authorizer: a}), append(resolvers, a)
		}
	}
	var err error
	if out.Authorizer, err = union.New(chain...); err != nil {
		return nil, err
	}
	out.RuleResolver = union.NewRuleResolvers(resolvers...)
	return out, nil
}

func newWebhook(c apiserverconfig.AuthorizerConfiguration, compiler authorizationcel.Compiler) (*webhook.WebhookAuthorizer, error) {
	w := c.Webhook
	if w.ConnectionInfo.KubeConfigFile == nil {
		return nil, fmt.Errorf("only connections by KubeConfigFile are possible here, not %s", w.ConnectionInfo.Type)
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: *w.ConnectionInfo.KubeConfigFile}
	client, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	client.Timeout = w.Timeout.Duration
	onError := authorizer.DecisionNoOpinion
	if w.FailurePolicy == "Deny" {
		onError = authorizer.DecisionDeny
	}
	authorized, unauthorized := w.AuthorizedTTL.Duration, w.UnauthorizedTTL.Duration
	if !w.CacheAuthorizedRequests {
		authorized = time.Duration(0)
	}
	if !w.CacheUnauthorizedRequests {
		unauthorized = time.Duration(0)
	}
	return webhook.New(client, w.SubjectAccessReviewVersion, authorized, unauthorized, *webhook.DefaultRetryBackoff(), onError, w.MatchConditions, c.Name,
		webhookmetrics.NoopAuthorizerMetrics{}, compiler)
}
