// SPDX-License-Identifier: Apache-2.0

// Package signer asks whether a user may act for a certificate signer. It is what the plugins about certificates share.
package signer

import (
	"context"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/klog/v2"
)

// Allowed reports whether u has verb ("approve", "sign") on the signer name, or on all signers of its domain ("example.com/*").
func Allowed(ctx context.Context, a authorizer.UnconditionalAuthorizer, u user.Info, verb, name string) bool {
	domain, _, _ := strings.Cut(name, "/")
	for _, n := range []string{name, domain + "/*"} {
		decision, reason, err := a.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: n, APIGroup: "certificates.k8s.io", APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return true
		}
		if err != nil {
			klog.FromContext(ctx).V(2).Info("Authorization for a signer failed", "verb", verb, "signer", n, "reason", reason, "err", err)
		}
	}
	return false
}
