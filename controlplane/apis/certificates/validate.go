// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// usages are all purposes that a certificate can be asked for (RFC 5280 4.2.1.3 and 4.2.1.12, and what Kubernetes adds).
var usages = []v1.KeyUsage{
	v1.UsageSigning, v1.UsageDigitalSignature, v1.UsageContentCommitment, v1.UsageKeyEncipherment, v1.UsageKeyAgreement, v1.UsageDataEncipherment,
	v1.UsageCertSign, v1.UsageCRLSign, v1.UsageEncipherOnly, v1.UsageDecipherOnly, v1.UsageAny, v1.UsageServerAuth, v1.UsageClientAuth, v1.UsageCodeSigning,
	v1.UsageEmailProtection, v1.UsageSMIME, v1.UsageIPsecEndSystem, v1.UsageIPsecTunnel, v1.UsageIPsecUser, v1.UsageTimestamping, v1.UsageOCSPSigning,
	v1.UsageMicrosoftSGC, v1.UsageNetscapeSGC,
}

func validateSigningRequest(_ context.Context, c *v1.CertificateSigningRequest) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &c.Spec
	if at := path.Child("request"); r.Required(at, len(s.Request) > 0, "") {
		block, rest := pem.Decode(s.Request)
		switch {
		case block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0:
			r.Invalid(at, s.Request, "PEM block type must be CERTIFICATE REQUEST, and there must be exactly one")
		default:
			if _, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
				r.Invalid(at, s.Request, fmt.Sprintf("unable to parse csr: %v", err))
			}
		}
	}
	r.Required(path.Child("usages"), len(s.Usages) > 0, "usages must be provided")
	for i, u := range s.Usages {
		at := path.Child("usages").Index(i)
		if !slices.Contains(usages, u) {
			r.Add(field.NotSupported(at, u, usages))
		}
		if slices.Contains(s.Usages[:i], u) {
			r.Add(field.Duplicate(at, u))
		}
	}
	if at := path.Child("signerName"); r.Required(at, s.SignerName != "", "") {
		if s.SignerName == "kubernetes.io/legacy-unknown" {
			r.Invalid(at, s.SignerName, "the legacy signerName is not allowed via this API version")
		}
		podspec.SignerName(r, at, s.SignerName)
	}
	if n := s.ExpirationSeconds; n != nil && *n < 600 {
		r.Invalid(path.Child("expirationSeconds"), *n, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	conditions(r, c)
	return r.Errors()
}

func conditions(r *rule.Report, c *v1.CertificateSigningRequest) {
	seen := map[v1.RequestConditionType]bool{}
	path := field.NewPath("status", "conditions")
	for i, x := range c.Status.Conditions {
		at := path.Index(i)
		r.Required(at.Child("type"), x.Type != "", "")
		switch x.Type {
		case v1.CertificateApproved, v1.CertificateDenied, v1.CertificateFailed:
			rule.OneOf(r, at.Child("status"), x.Status, corev1.ConditionTrue)
		default:
			rule.OneOf(r, at.Child("status"), x.Status, corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown)
		}
		if seen[x.Type] {
			r.Add(field.Duplicate(at.Child("type"), x.Type))
		}
		seen[x.Type] = true
		if x.Type == v1.CertificateDenied && seen[v1.CertificateApproved] || x.Type == v1.CertificateApproved && seen[v1.CertificateDenied] {
			r.Invalid(at.Child("type"), x.Type, "Approved and Denied conditions are mutually exclusive")
		}
	}
}

// validateSigningRequestStatus: a signer adds the certificate, once; it neither approves nor takes back.
func validateSigningRequestStatus(_ context.Context, c, old *v1.CertificateSigningRequest) field.ErrorList {
	r := &rule.Report{}
	path := field.NewPath("status")
	conditions(r, c)
	has := func(c *v1.CertificateSigningRequest, t v1.RequestConditionType) bool {
		return slices.ContainsFunc(c.Status.Conditions, func(x v1.CertificateSigningRequestCondition) bool { return x.Type == t })
	}
	for _, t := range []v1.RequestConditionType{v1.CertificateApproved, v1.CertificateDenied} {
		if has(c, t) != has(old, t) {
			r.Forbidden(path.Child("conditions"), true, "updates may not add or remove a condition of type \""+string(t)+"\" here; use the approval subresource")
		}
	}
	if has(old, v1.CertificateFailed) && !has(c, v1.CertificateFailed) {
		r.Forbidden(path.Child("conditions"), true, "updates may not remove a condition of type \"Failed\"")
	}
	at := path.Child("certificate")
	switch {
	case len(old.Status.Certificate) > 0 && string(c.Status.Certificate) != string(old.Status.Certificate):
		r.Forbidden(at, true, "updates may not set certificate content when it is already set")
	case len(c.Status.Certificate) > 0 && len(old.Status.Certificate) == 0:
		if err := certificates(c.Status.Certificate); err != nil {
			r.Invalid(at, "<certificate data>", err.Error())
		}
	}
	return r.Errors()
}

// certificates returns an error unless data is PEM blocks of certificates, at least one.
func certificates(data []byte) error {
	n := 0
	for rest := data; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 {
				return fmt.Errorf("must contain at least one CERTIFICATE PEM block")
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return fmt.Errorf("no PEM block headers are permitted")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
	}
}

func validateTrustBundle(_ context.Context, b *v1.ClusterTrustBundle) field.ErrorList {
	r := &rule.Report{}
	name := field.NewPath("metadata", "name")
	if signer := b.Spec.SignerName; signer == "" {
		if strings.Contains(b.Name, ":") {
			r.Invalid(name, b.Name, "ClusterTrustBundle without signer name must not have \":\" in its name")
		}
	} else {
		podspec.SignerName(r, field.NewPath("spec", "signerName"), signer)
		prefix := strings.ReplaceAll(signer, "/", ":") + ":"
		if !strings.HasPrefix(b.Name, prefix) {
			r.Invalid(name, b.Name, fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix))
		}
	}
	at := field.NewPath("spec", "trustBundle")
	if len(b.Spec.TrustBundle) > 1<<20 {
		r.Add(field.TooLong(at, "<value omitted>", 1<<20))
		return r.Errors()
	}
	if err := certificates([]byte(b.Spec.TrustBundle)); err != nil {
		r.Invalid(at, "<value omitted>", err.Error())
	} else if twice([]byte(b.Spec.TrustBundle)) {
		r.Invalid(at, "<value omitted>", "duplicate trust anchor")
	}
	return r.Errors()
}

func twice(data []byte) bool {
	seen := map[string]bool{}
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return false
		}
		if seen[string(block.Bytes)] {
			return true
		}
		seen[string(block.Bytes)] = true
	}
}

func validateTrustBundleUpdate(_ context.Context, b, old *v1.ClusterTrustBundle) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec", "signerName"), b.Spec.SignerName, old.Spec.SignerName)
	return r.Errors()
}

// trustBundleName is a name whose parts, between colons, are DNS names: the signer's domain, its path, and what the signer likes.
func trustBundleName(name string, prefix bool) []string {
	i := strings.LastIndex(name, ":")
	return apivalidation.NameIsDNSSubdomain(name[i+1:], prefix)
}
