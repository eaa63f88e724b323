// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	webhookinitializer "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/apiserver/pkg/util/webhook"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/admission/quota/evaluator"
	"github.com/fairlead/fairlead/controlplane/apis/openapi"
)

// initializers hand to plugins what the library does not.
func initializers(env Env) []admission.PluginInitializer {
	services := env.Services
	if services == nil {
		services = webhook.NewDefaultServiceResolver()
	}
	authentication := webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, env.Generic.LoopbackClientConfig, env.Generic.TracerProvider)
	return []admission.PluginInitializer{
		webhookinitializer.NewPluginInitializer(authentication, services),
		extra{
			quota: generic.NewConfiguration(evaluator.All(nil, clock.RealClock{}), evaluator.Ignored()),
			// Types of built-in kinds come from the compiled-in definitions, those of custom resources from discovery.
			schemas: resolver.NewDefinitionsSchemaResolver(openapi.GetOpenAPIDefinitions, clientscheme.Scheme).
				Combine(&resolver.ClientDiscoveryResolver{Discovery: env.Client.Discovery()}),
		},
	}
}

type extra struct {
	quota   quota.Configuration
	schemas resolver.SchemaResolver
}

// Initialize implements admission.PluginInitializer.
func (e extra) Initialize(plugin admission.Interface) {
	if p, ok := plugin.(initializer.WantsQuotaConfiguration); ok {
		p.SetQuotaConfiguration(e.quota)
	}
	if p, ok := plugin.(initializer.WantsSchemaResolver); ok {
		p.SetSchemaResolver(e.schemas)
	}
	if p, ok := plugin.(initializer.WantsExcludedAdmissionResources); ok {
		p.SetExcludedAdmissionResources(excluded())
	}
}

// excluded are the resources that policies and webhooks never see: questions about identity and rights, whose failure would lock out
// the very people who could repair a bad policy, and the policies and webhook configurations themselves.
func excluded() (out []schema.GroupResource) {
	for group, resources := range map[string][]string{
		"admissionregistration.k8s.io": {
			"mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "mutatingwebhookconfigurations",
			"validatingadmissionpolicies", "validatingadmissionpolicybindings", "validatingwebhookconfigurations",
		},
		"authentication.k8s.io": {"selfsubjectreviews", "tokenreviews"},
		"authorization.k8s.io":  {"localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews"},
	} {
		for _, r := range resources {
			out = append(out, schema.GroupResource{Group: group, Resource: r})
		}
	}
	return out
}
