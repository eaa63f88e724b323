// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"

	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	genericfeatures "k8s.io/apiserver/pkg/features"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
)

// localChain is what requests of clients in this process go through before api. Against genericapiserver.DefaultBuildHandlerChain it lacks
//   - authentication: localUser says who asks;
//   - priority and fairness: these clients' own workers bound how much they ask at once;
//   - the goroutine that answers for a handler which misses its deadline: handlers here watch their context;
//   - what is for browsers, proxies and load balancers (CORS, HSTS, cache headers, retry-after while shutting down).
//
// Audit, authorization, impersonation, admission, deadlines, warnings, metrics and the wait for open requests at the end are the same.
func localChain(api http.Handler, c *genericapiserver.Config, traced bool) http.Handler {
	h := genericapifilters.WithAuthorization(api, c.Authorization.Authorizer, c.Serializer)
	if c.FeatureGate.Enabled(genericfeatures.ConstrainedImpersonation) {
		h = impersonation.WithConstrainedImpersonation(h, c.Authorization.Authorizer, c.Serializer)
	} else {
		h = impersonation.WithImpersonation(h, c.Authorization.Authorizer, c.Serializer)
	}
	h = genericapifilters.WithAudit(h, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc)
	if traced {
		h = genericapifilters.WithTracing(h, c.TracerProvider)
	}
	h = genericapifilters.WithWarningRecorder(h)
	h = genericapifilters.WithRequestDeadline(h, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc, c.Serializer, c.RequestTimeout)
	h = genericfilters.WithWaitGroup(h, c.LongRunningFunc, c.NonLongRunningRequestWaitGroup)
	h = genericfilters.WithHTTPLogging(h)
	h = genericapifilters.WithLatencyTrackers(h)
	h = genericapifilters.WithRequestInfo(h, c.RequestInfoResolver)
	h = genericapifilters.WithRequestReceivedTimestamp(h)
	h = genericfilters.WithPanicRecovery(h, c.RequestInfoResolver)
	return genericapifilters.WithAuditInit(h)
}
